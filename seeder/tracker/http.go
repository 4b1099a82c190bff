package tracker

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"
)

const (
	maxQuery  = 8 << 10
	maxScrape = 64
)

// announce is one parsed announce of BEP 3.
type announce struct {
	hash    [20]byte
	peerID  string // 20 bytes
	port    uint16
	left    int64
	event   string
	want    int // -1: not said
	compact bool
}

// Handler returns the tracker's HTTP interface: GET /announce/{key} and GET /scrape/{key}.
func (t *Tracker) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /announce/{key}", t.serve(t.announce))
	mux.HandleFunc("GET /scrape/{key}", t.serve(t.scrape))
	return mux
}

// asker is who sent a request.
type asker struct {
	host, rack string
	ip         netip.Addr
}

// serve checks the credential and the rate, and writes the bencoded answer or failure. The key never reaches a log.
func (t *Tracker) serve(answer func(asker, string) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=iso-8859-1")
		w.Header().Set("Cache-Control", "no-store")
		body, err := t.reply(req, answer)
		if err != nil {
			body = failure(err)
		}
		w.Write(body) // the client went away: nothing to do
	}
}

func (t *Tracker) reply(req *http.Request, answer func(asker, string) ([]byte, error)) ([]byte, error) {
	host, rack, ok := t.cfg.Host(req.PathValue("key"))
	if !ok {
		return nil, errors.New("unknown announce key")
	}
	if !t.admit(host, time.Now()) {
		return nil, errors.New("too many requests, slow down")
	}
	from, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return nil, errors.New("no source address")
	}
	if len(req.URL.RawQuery) > maxQuery {
		return nil, fmt.Errorf("query of %d bytes, limit %d", len(req.URL.RawQuery), maxQuery)
	}
	return answer(asker{host, rack, from.Addr().Unmap()}, req.URL.RawQuery)
}

func (t *Tracker) announce(who asker, query string) ([]byte, error) {
	a, err := parseAnnounce(query)
	if err != nil {
		return nil, err
	}
	if !t.cfg.Known(hex.EncodeToString(a.hash[:])) {
		return nil, errors.New("unknown infohash")
	}
	if a.want < 0 {
		a.want = t.cfg.DefaultWant
	}
	a.want = min(a.want, t.cfg.MaxWant)
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.ringLocked(a.hash)
	r.expire(now.Add(-t.cfg.PeerTTL))
	if a.event == "stopped" {
		r.remove(who.host)
		return t.encode(r, a, nil), nil
	}
	old := r.byHost[who.host]
	complete := a.left == 0
	if a.event == "completed" && complete && (old == nil || !old.complete) {
		r.downloads++
	}
	r.put(member{
		host: who.host, rack: who.rack, addr: netip.AddrPortFrom(who.ip, a.port), peerID: a.peerID, complete: complete, seen: now,
	})
	return t.encode(r, a, r.choose(who.host, a.want)), nil
}

// encode writes the reply of BEP 3, compact (BEP 23, BEP 7) unless the client wants dictionaries.
func (t *Tracker) encode(r *ring, a announce, peers []*member) []byte {
	complete, incomplete := r.counts()
	b := []byte("d")
	b = pair(b, "complete", int64(complete))
	b = pair(b, "incomplete", int64(incomplete))
	b = pair(b, "interval", int64(t.cfg.Interval/time.Second))
	b = pair(b, "min interval", int64(t.cfg.MinInterval/time.Second))
	b = text(b, "peers")
	if !a.compact {
		b = append(b, 'l')
		for _, m := range peers {
			b = append(b, 'd')
			b = text(text(b, "ip"), m.addr.Addr().String())
			if m.peerID != "" {
				b = text(text(b, "peer id"), m.peerID)
			}
			b = append(pair(b, "port", int64(m.addr.Port())), 'e')
		}
		return append(b, 'e', 'e')
	}
	var v4, v6 []byte
	for _, m := range peers {
		ip, port := m.addr.Addr(), m.addr.Port()
		if ip.Is4() {
			v4 = append(append(v4, ip.AsSlice()...), byte(port>>8), byte(port))
		} else {
			v6 = append(append(v6, ip.AsSlice()...), byte(port>>8), byte(port))
		}
	}
	b = text(b, string(v4))
	if len(v6) > 0 {
		b = text(text(b, "peers6"), string(v6))
	}
	return append(b, 'e')
}

// scrape answers BEP 48 for the torrents named; those unknown are left out.
func (t *Tracker) scrape(_ asker, query string) ([]byte, error) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("malformed query")
	}
	hashes := q["info_hash"]
	if len(hashes) == 0 || len(hashes) > maxScrape {
		return nil, fmt.Errorf("name 1 to %d info_hash values", maxScrape)
	}
	slices.Sort(hashes)
	t.mu.Lock()
	defer t.mu.Unlock()
	b := []byte("d5:filesd")
	for _, s := range slices.Compact(hashes) {
		if len(s) != 20 || !t.cfg.Known(hex.EncodeToString([]byte(s))) {
			continue
		}
		var complete, incomplete int
		var downloads int64
		if r, ok := t.swarms[[20]byte([]byte(s))]; ok {
			r.expire(time.Now().Add(-t.cfg.PeerTTL))
			complete, incomplete = r.counts()
			downloads = r.downloads
		}
		b = append(text(b, s), 'd')
		b = pair(b, "complete", int64(complete))
		b = pair(b, "downloaded", downloads)
		b = append(pair(b, "incomplete", int64(incomplete)), 'e')
	}
	return append(b, 'e', 'e'), nil
}

// parseAnnounce reads the query of an announce. Errors are for the client to read.
func parseAnnounce(query string) (announce, error) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return announce{}, errors.New("malformed query")
	}
	hash, id := q.Get("info_hash"), q.Get("peer_id")
	if len(hash) != 20 {
		return announce{}, fmt.Errorf("info_hash has %d bytes, not 20", len(hash))
	}
	if len(id) != 20 {
		return announce{}, fmt.Errorf("peer_id has %d bytes, not 20", len(id))
	}
	a := announce{hash: [20]byte([]byte(hash)), peerID: id, event: q.Get("event"), compact: q.Get("compact") != "0", want: -1}
	port, err := strconv.ParseUint(q.Get("port"), 10, 16)
	if err != nil || port == 0 {
		return announce{}, errors.New("port is not a number from 1 to 65535")
	}
	a.port = uint16(port)
	for _, name := range []string{"uploaded", "downloaded", "left"} {
		n, err := strconv.ParseInt(q.Get(name), 10, 64)
		if q.Has(name) && (err != nil || n < 0) || name == "left" && !q.Has(name) {
			return announce{}, fmt.Errorf("%s is not a number of bytes", name)
		}
		if name == "left" {
			a.left = n
		}
	}
	if s := q.Get("numwant"); s != "" {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return announce{}, errors.New("numwant is not a number")
		}
		a.want = int(max(n, -1))
	}
	switch a.event {
	case "", "started", "stopped", "completed":
	case "empty": // some clients spell it out
		a.event = ""
	default:
		return announce{}, errors.New("event is none of started, stopped, completed")
	}
	return a, nil
}

// failure is the reply that clients show to their user.
func failure(err error) []byte {
	return append(text(text([]byte("d"), "failure reason"), err.Error()), 'e')
}

func text(b []byte, s string) []byte {
	b = strconv.AppendInt(b, int64(len(s)), 10)
	return append(append(b, ':'), s...)
}

func pair(b []byte, key string, n int64) []byte {
	b = append(text(b, key), 'i')
	return append(strconv.AppendInt(b, n, 10), 'e')
}
