package flagd

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/murmuration/murmuration/feature"
)

// Bounds of what is counted.
const (
	maxTallies  = 50_000
	maxCounts   = 10_000 // in one report
	maxClients  = 200    // of one flag in one hour
	usageHours  = 24
	otherClient = "(others)"
	// reported is the reason of evaluations that clients made themselves: they report no reasons.
	reported = feature.Reason("UNKNOWN")
)

// usage counts who reads which flag. The counts are this server's and in memory: a restart forgets them, all but when
// each flag was last read, which is kept with the disk copy. It is safe for concurrent use.
type usage struct {
	mu      sync.RWMutex
	tallies map[tallyKey]*tally

	hoursMu sync.Mutex
	flags   map[string]*flagUse
}

type tallyKey struct {
	flag, variant string
	reason        feature.Reason
	client        string
}

// tally counts from the start of the server; flushed is the part that is in the hours too.
type tally struct {
	n       atomic.Uint64
	flushed uint64
}

// flagUse is one flag's last day.
type flagUse struct {
	last  time.Time
	hours [usageHours]hourUse
}

// hourUse counts one hour, which is number hour since 1970.
type hourUse struct {
	hour      int64
	byVariant map[string]int64
	byClient  map[string]int64
}

func newUsage() *usage {
	return &usage{tallies: map[tallyKey]*tally{}, flags: map[string]*flagUse{}}
}

// count counts one evaluation by this server. Flags that do not exist are not counted: their names are the caller's.
func (u *usage) count(client string, r *feature.Resolution) {
	if r.Code == feature.FlagNotFound {
		return
	}
	u.add(tallyKey{r.Key, r.Variant, r.Reason, client}, 1)
}

func (u *usage) add(k tallyKey, n uint64) {
	u.mu.RLock()
	t := u.tallies[k]
	u.mu.RUnlock()
	if t == nil {
		t = u.tally(k)
	}
	t.n.Add(n)
}

// tally makes a counter. When there are too many, clients are counted together: flags times variants is bounded by
// the store.
func (u *usage) tally(k tallyKey) *tally {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.tallies) >= maxTallies {
		k.client = otherClient
	}
	t := u.tallies[k]
	if t == nil {
		t = &tally{}
		u.tallies[k] = t
	}
	return t
}

// run moves counts into the hours now and then, until ctx ends.
func (u *usage) run(ctx context.Context) error {
	ticker := time.NewTicker(10 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			u.flush(time.Now())
		}
	}
}

// flush moves what was counted since the last flush into the present hour.
func (u *usage) flush(now time.Time) {
	u.hoursMu.Lock()
	defer u.hoursMu.Unlock()
	u.mu.RLock()
	defer u.mu.RUnlock()
	for k, t := range u.tallies {
		n := t.n.Load()
		if n == t.flushed {
			continue
		}
		u.useLocked(k.flag).add(now, k, int64(n-t.flushed))
		t.flushed = n
	}
}

func (u *usage) useLocked(flag string) *flagUse {
	f := u.flags[flag]
	if f == nil {
		f = &flagUse{}
		u.flags[flag] = f
	}
	return f
}

func (f *flagUse) add(now time.Time, k tallyKey, n int64) {
	f.last = now
	hour := now.Unix() / 3600
	h := &f.hours[hour%usageHours]
	if h.hour != hour {
		*h = hourUse{hour: hour, byVariant: map[string]int64{}, byClient: map[string]int64{}}
	}
	h.byVariant[k.variant] += n
	if _, known := h.byClient[k.client]; !known && len(h.byClient) >= maxClients {
		k.client = otherClient
	}
	h.byClient[k.client] += n
}

// useSum is a flag's use in the last 24 hours.
type useSum struct {
	last                time.Time
	byVariant, byClient map[string]int64
}

// of sums the last day of one flag.
func (u *usage) of(flag string, now time.Time) useSum {
	u.flush(now)
	u.hoursMu.Lock()
	defer u.hoursMu.Unlock()
	out := useSum{byVariant: map[string]int64{}, byClient: map[string]int64{}}
	f := u.flags[flag]
	if f == nil {
		return out
	}
	out.last = f.last
	for _, h := range f.hours {
		if now.Unix()/3600-h.hour >= usageHours {
			continue
		}
		for name, n := range h.byVariant {
			out.byVariant[name] += n
		}
		for name, n := range h.byClient {
			out.byClient[name] += n
		}
	}
	return out
}

// lastReads is what the disk copy holds.
func (u *usage) lastReads() map[string]int64 {
	u.flush(time.Now())
	u.hoursMu.Lock()
	defer u.hoursMu.Unlock()
	out := make(map[string]int64, len(u.flags))
	for flag, f := range u.flags {
		out[flag] = f.last.Unix()
	}
	return out
}

func (u *usage) restore(last map[string]int64) {
	u.hoursMu.Lock()
	defer u.hoursMu.Unlock()
	for flag, at := range last {
		if feature.ValidKey(flag) {
			u.useLocked(flag).last = time.Unix(at, 0)
		}
	}
}

// each yields every count since the start, for metrics.
func (u *usage) each(yield func(k tallyKey, n uint64)) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	for k, t := range u.tallies {
		yield(k, t.n.Load())
	}
}

// usageReport is the body of POST /v1/usage.
type usageReport struct {
	Client string `json:"client"`
	Counts []struct {
		Flag    string `json:"flag"`
		Variant string `json:"variant"`
		Count   int64  `json:"count"`
	} `json:"counts"`
}

// reportUsage is POST /v1/usage. Flags and variants that do not exist here are left out: a client may be behind.
func (s *Server) reportUsage(w http.ResponseWriter, r *http.Request, who string) {
	var report usageReport
	if !decodeSmall(w, r, &report) {
		return
	}
	if len(report.Client) > 128 || !utf8.ValidString(report.Client) || len(report.Counts) > maxCounts {
		fail(w, http.StatusBadRequest, string(feature.ParseError), "client has at most 128 bytes, counts at most 10,000 entries")
		return
	}
	if report.Client == "" {
		report.Client = who
	}
	set := s.view.load().set
	for _, c := range report.Counts {
		def, ok := set.Flag(c.Flag)
		if !ok || c.Count <= 0 || c.Count > 1<<40 || !hasVariant(&def, c.Variant) {
			continue
		}
		s.usage.add(tallyKey{c.Flag, c.Variant, reported, report.Client}, uint64(c.Count))
	}
	w.WriteHeader(http.StatusNoContent)
}

func hasVariant(f *feature.Flag, name string) bool {
	for i := range f.Variants {
		if f.Variants[i].Name == name {
			return true
		}
	}
	return false
}

// decodeSmall reads a JSON body of at most 1 MiB, or answers what is wrong with it.
func decodeSmall(w http.ResponseWriter, r *http.Request, into any) bool {
	buf := buffers.Get().(*[]byte)
	defer keepBuffer(buf)
	body, err := readBody(r, (*buf)[:0])
	*buf = body
	if err == errTooLarge {
		fail(w, http.StatusRequestEntityTooLarge, "TOO_LARGE", err.Error())
		return false
	}
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, string(feature.ParseError), "the body cannot be read: "+err.Error())
		return false
	}
	return true
}

// ackStream is POST /v1/streams/{id}/ack.
func (s *Server) ackStream(w http.ResponseWriter, r *http.Request, _ string) {
	var body struct {
		Revision int64 `json:"revision"`
	}
	if !decodeSmall(w, r, &body) {
		return
	}
	took, ok := s.hub.ack(r.PathValue("id"), body.Revision)
	if !ok {
		fail(w, http.StatusNotFound, "NOT_FOUND", "there is no such stream (any more)")
		return
	}
	for _, d := range took {
		s.metrics.killLatency.Observe(d.Seconds())
	}
	w.WriteHeader(http.StatusNoContent)
}
