package tracker

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const hash = "aaaaaaaaaaaaaaaaaaaa" // 20 raw bytes

var hexHash = strings.Repeat("61", 20)

// newTracker knows one torrent and every key "key-X" as the host X, in rack "r" + first letter of X.
func newTracker(cfg Config) *Tracker {
	cfg.Known = func(h string) bool { return h == hexHash }
	cfg.Host = func(key string) (string, string, bool) {
		host, ok := strings.CutPrefix(key, "key-")
		return host, "r" + host[:min(1, len(host))], ok && host != ""
	}
	cfg.Seed = 42
	return New(cfg)
}

// get asks the handler from an address and returns the body.
func get(tb testing.TB, tr *Tracker, from, path string, q url.Values) string {
	tb.Helper()
	req := httptest.NewRequest(http.MethodGet, path+"?"+q.Encode(), nil)
	req.RemoteAddr = from
	w := httptest.NewRecorder()
	tr.Handler().ServeHTTP(w, req)
	if w.Code != http.StatusOK {
		tb.Fatalf("status %d for %s: %s", w.Code, path, w.Body)
	}
	return w.Body.String()
}

func params(more ...string) url.Values {
	q := url.Values{"info_hash": {hash}, "peer_id": {"-XX0000-abcdefghijkl"}, "port": {"6881"}, "left": {"5"}}
	for i := 0; i < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return q
}

func TestAnnounce(t *testing.T) {
	tr := newTracker(Config{})
	head := func(complete, incomplete int) string {
		return fmt.Sprintf("d8:completei%de10:incompletei%de8:intervali60e12:min intervali15e", complete, incomplete)
	}
	steps := []struct {
		name, from, key, want string
		q                     url.Values
	}{
		{"first peer", "10.0.0.1:4000", "key-a", head(0, 1) + "5:peers0:e", params()},
		{"asked again", "10.0.0.1:4001", "key-a", head(0, 1) + "5:peers0:e", params()},
		{"the ip parameter is ignored", "10.0.0.2:4000", "key-b", head(0, 2) + "5:peers6:\x0a\x00\x00\x01\x1a\xe1e",
			params("ip", "6.6.6.6")},
		{"address as connected", "10.0.0.3:4000", "key-c", head(1, 2) + "5:peers6:\x0a\x00\x00\x02\x1a\xe1e",
			params("left", "0", "event", "completed", "numwant", "1")},
		{"nobody wanted", "10.0.0.3:4000", "key-c", head(1, 2) + "5:peers0:e", params("left", "0", "numwant", "0")},
		{"gone", "10.0.0.1:4000", "key-a", head(1, 1) + "5:peers0:e", params("event", "stopped")},
		{"dictionaries", "10.0.0.2:4000", "key-b", head(1, 1) + "5:peersld2:ip8:10.0.0.37:peer id20:-XX0000-abcdefghijkl4:porti6881eeee",
			params("compact", "0")},
		{"IPv6", "[2001:db8::1]:4000", "key-d", head(1, 2) + "5:peers12:" + "\x0a\x00\x00\x02\x1a\xe1" + "\x0a\x00\x00\x03\x1a\xe1e", params()},
		{"IPv6 given", "10.0.0.2:4000", "key-b", head(1, 2) + "5:peers6:\x0a\x00\x00\x03\x1a\xe1" +
			"6:peers618:\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x1a\xe1e", params()},
		{"IPv4 in IPv6", "[::ffff:10.0.0.9]:4000", "key-e", "", params("left", "0")},
	}
	for _, s := range steps {
		got := get(t, tr, s.from, "/announce/"+s.key, s.q)
		if s.want != "" && sortPeers(got) != sortPeers(s.want) {
			t.Errorf("%s:\n got %q\nwant %q", s.name, got, s.want)
		}
	}
	want := "d5:filesd20:" + hash + "d8:completei2e10:downloadedi1e10:incompletei2eeee"
	if got := get(t, tr, "10.0.0.1:1", "/scrape/key-a", url.Values{"info_hash": {hash, hash, "unknown-unknown-unkn"}}); got != want {
		t.Errorf("scrape:\n got %q\nwant %q", got, want)
	}
	for _, p := range tr.Peers(hexHash, "", 10) {
		if p.HostID == "e" && p.Addr != "10.0.0.9:6881" {
			t.Errorf("mapped IPv4 address kept as %s", p.Addr)
		}
	}
}

// sortPeers puts the two IPv4 peers of the test in order, since the choice may name them either way round.
func sortPeers(s string) string {
	return strings.Replace(s, "\x0a\x00\x00\x03\x1a\xe1\x0a\x00\x00\x02\x1a\xe1", "\x0a\x00\x00\x02\x1a\xe1\x0a\x00\x00\x03\x1a\xe1", 1)
}

func TestFailuresAreBencoded(t *testing.T) {
	tr := newTracker(Config{})
	without := func(name string) url.Values { q := params(); q.Del(name); return q }
	for name, c := range map[string]struct {
		path, reason string
		q            url.Values
	}{
		"no such key":       {"/announce/guess", "unknown announce key", params()},
		"unknown torrent":   {"/announce/key-a", "unknown infohash", params("info_hash", "bbbbbbbbbbbbbbbbbbbb")},
		"short hash":        {"/announce/key-a", "info_hash has 3 bytes, not 20", params("info_hash", "abc")},
		"no peer id":        {"/announce/key-a", "peer_id has 0 bytes, not 20", without("peer_id")},
		"no port":           {"/announce/key-a", "port is not a number from 1 to 65535", without("port")},
		"port 0":            {"/announce/key-a", "port is not a number from 1 to 65535", params("port", "0")},
		"large port":        {"/announce/key-a", "port is not a number from 1 to 65535", params("port", "65536")},
		"no left":           {"/announce/key-a", "left is not a number of bytes", without("left")},
		"negative left":     {"/announce/key-a", "left is not a number of bytes", params("left", "-1")},
		"wild event":        {"/announce/key-a", "event is none of started, stopped, completed", params("event", "exploded")},
		"numwant":           {"/announce/key-a", "numwant is not a number", params("numwant", "many")},
		"huge query":        {"/announce/key-a", "query of", params("key", strings.Repeat("x", maxQuery))},
		"scrape everything": {"/scrape/key-a", "name 1 to 64 info_hash values", url.Values{}},
	} {
		got := get(t, tr, "10.0.0.1:4000", c.path, c.q)
		if !strings.HasPrefix(got, "d14:failure reason") || !strings.Contains(got, c.reason) || !strings.HasSuffix(got, "e") {
			t.Errorf("%s: got %q, want a failure with %q", name, got, c.reason)
		}
	}
	if c, i := tr.Counts(hexHash); c+i != 0 {
		t.Errorf("refused announces left %d peers", c+i)
	}
}

func TestNumwantIsBounded(t *testing.T) {
	tr := newTracker(Config{DefaultWant: 7, MaxWant: 20, Burst: 1000})
	for i := range 100 {
		if err := tr.Register(hexHash, fmt.Sprintf("h%d", i), "r1", fmt.Sprintf("10.0.1.%d:1000", i), false); err != nil {
			t.Fatal(err)
		}
	}
	for want, n := range map[string]int{"": 7, "-1": 7, "-9999": 7, "5": 5, "1000": 20, "0": 0} {
		body := get(t, tr, "10.0.0.1:4000", "/announce/key-a", params("numwant", want))
		if !strings.Contains(body, fmt.Sprintf("5:peers%d:", 6*n)) {
			t.Errorf("numwant %q: %q, want %d peers", want, body[:min(120, len(body))], n)
		}
	}
}

func TestRateLimitIsPerHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTracker(Config{Rate: 1, Burst: 3})
		refused := func(key string) bool {
			return strings.Contains(get(t, tr, "10.0.0.1:4000", "/announce/"+key, params()), "slow down")
		}
		for i := range 3 {
			if refused("key-a") {
				t.Fatalf("request %d refused within the burst", i)
			}
		}
		if !refused("key-a") {
			t.Error("request over the burst was answered")
		}
		if refused("key-b") {
			t.Error("another host pays for it")
		}
		time.Sleep(time.Second)
		if refused("key-a") {
			t.Error("refused after a second's rest")
		}
	})
}

func TestPeersExpireAndSessionsDoNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTracker(Config{Interval: time.Minute})
		get(t, tr, "10.0.0.1:4000", "/announce/key-a", params())
		if err := tr.Register(hexHash, "b", "rb", "10.0.0.2:7000", true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*time.Minute + 29*time.Second)
		if c, i := tr.Counts(hexHash); c != 1 || i != 1 {
			t.Errorf("before the time limit: %d complete, %d incomplete", c, i)
		}
		time.Sleep(2 * time.Second)
		tr.Purge()
		if c, i := tr.Counts(hexHash); c != 1 || i != 0 {
			t.Errorf("after the time limit: %d complete, %d incomplete; want the registered one only", c, i)
		}
		get(t, tr, "10.0.0.2:4000", "/announce/key-b", params("left", "0"))
		time.Sleep(time.Hour)
		tr.Purge()
		if c, _ := tr.Counts(hexHash); c != 1 {
			t.Error("a host with a session expired because it also announced once")
		}
		tr.Forget("b")
		if c, i := tr.Counts(hexHash); c+i != 0 {
			t.Error("a forgotten host is still there")
		}
	})
}

func TestRegisterRefuses(t *testing.T) {
	tr := newTracker(Config{})
	for addr, want := range map[string]error{"host:80": ErrAddress, "": ErrAddress, "10.0.0.1:0": ErrAddress, "10.0.0.1": ErrAddress} {
		if err := tr.Register(hexHash, "a", "r", addr, false); !errors.Is(err, want) {
			t.Errorf("address %q: %v, want %v", addr, err, want)
		}
	}
	for _, h := range []string{"", "xyz", strings.Repeat("00", 20)} {
		if err := tr.Register(h, "a", "r", "10.0.0.1:1", false); !errors.Is(err, ErrUnknown) {
			t.Errorf("infohash %q: %v, want ErrUnknown", h, err)
		}
	}
}

func FuzzAnnounce(f *testing.F) {
	f.Add(params().Encode())
	f.Add("info_hash=%61%zz&port=1;2")
	f.Add("&&&=&=&numwant=99999999999999999999&left=")
	f.Add(params("event", "completed", "left", "0", "numwant", "-5", "compact", "0").Encode())
	f.Fuzz(func(t *testing.T, query string) {
		a, err := parseAnnounce(query)
		if err == nil && (a.port == 0 || a.left < 0 || len(a.peerID) != 20 || a.want < -1) {
			t.Fatalf("accepted %+v", a)
		}
		tr := newTracker(Config{})
		req := httptest.NewRequest(http.MethodGet, "/announce/key-a", nil)
		req.URL.RawQuery = query
		req.RemoteAddr = "10.0.0.1:4000"
		w := httptest.NewRecorder()
		tr.Handler().ServeHTTP(w, req)
		body := w.Body.String()
		if w.Code != http.StatusOK || !strings.HasPrefix(body, "d") || !strings.HasSuffix(body, "e") {
			t.Fatalf("answer %d %q", w.Code, body)
		}
	})
}
