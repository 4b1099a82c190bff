// Package darkmodetest serves flags to the tests of programs that read them.
//
// A [Server] speaks flagd's native protocol from memory: snapshot, event stream with resume, acknowledgements and
// usage. It can also misbehave on demand. [Bootstrap] makes a state for a client that needs no server at all.
package darkmodetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
)

// Bool is a boolean flag with the variants on and off at a dial.
func Bool(key string, d dial.Dial, change ...func(*feature.Flag)) feature.Flag {
	return Flag(key, feature.Boolean, d, true, false, change...)
}

// Flag is a flag of any type with the variants on and off.
func Flag(key string, t feature.Type, d dial.Dial, on, off any, change ...func(*feature.Flag)) feature.Flag {
	f := feature.Flag{
		Key: key, Type: t, On: "on", Off: "off", Dial: d, Version: 1,
		Variants: []feature.Variant{{Name: "on", Value: mustJSON(on)}, {Name: "off", Value: mustJSON(off)}},
	}
	for _, c := range change {
		c(&f)
	}
	return f
}

// Mode is a mode flag that is in a mode for everyone.
func Mode(key, mode string) feature.Flag {
	return feature.Flag{
		Key: key, Type: feature.Mode, On: mode, Off: feature.ModeNormal, Dial: dial.Full, Version: 1,
		Variants: []feature.Variant{
			{Name: feature.ModeNormal, Value: mustJSON(feature.ModeNormal)},
			{Name: feature.ModeReadOnly, Value: mustJSON(feature.ModeReadOnly)},
			{Name: feature.ModeStatic, Value: mustJSON(feature.ModeStatic)},
		},
	}
}

// Bootstrap is a state of these flags as a program would ship it.
func Bootstrap(flags ...feature.Flag) []byte {
	return mustJSON(snapshot{1, flags, []feature.Segment{}})
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("darkmodetest: %v", err)) // the test's own data
	}
	return b
}

type snapshot struct {
	Revision uint64            `json:"revision"`
	Flags    []feature.Flag    `json:"flags"`
	Segments []feature.Segment `json:"segments"`
}

// Change is what a delta or kill carries.
type Change struct {
	Revision        uint64            `json:"revision"`
	Flags           []feature.Flag    `json:"flags,omitempty"`
	Segments        []feature.Segment `json:"segments,omitempty"`
	DroppedFlags    []string          `json:"dropped_flags,omitempty"`
	DroppedSegments []string          `json:"dropped_segments,omitempty"`
	Ack             bool              `json:"ack,omitempty"`
}

// Ack is an acknowledgement that came.
type Ack struct {
	Stream   string
	Revision uint64
}

// Server is flagd in memory. It is safe for concurrent use and ends with the test.
type Server struct {
	// URL is for darkmode.Config.Servers.
	URL string

	http *httptest.Server

	mu        sync.Mutex
	revision  uint64
	flags     map[string]feature.Flag
	segments  map[string]feature.Segment
	deltas    []Change
	changed   chan struct{} // closed at the next change
	dropped   chan struct{} // closed when all streams must end
	streams   int           // opened so far
	open      int
	polls     int
	since     []uint64
	refuse    int
	wait      string
	broken    bool
	heartbeat time.Duration

	// Acks delivers acknowledgements, Usage reports; both hold 64 and drop what nobody takes.
	Acks  chan Ack
	Usage chan []UsageCount
}

// UsageCount is one count of a report.
type UsageCount struct {
	Flag    string `json:"flag"`
	Variant string `json:"variant"`
	Count   uint64 `json:"count"`
}

// New starts a server with flags at revision 10.
func New(tb testing.TB, flags ...feature.Flag) *Server {
	tb.Helper()
	s := &Server{
		revision: 10, flags: map[string]feature.Flag{}, segments: map[string]feature.Segment{}, heartbeat: 15 * time.Second,
		changed: make(chan struct{}), dropped: make(chan struct{}), Acks: make(chan Ack, 64), Usage: make(chan []UsageCount, 64),
	}
	for _, f := range flags {
		s.flags[f.Key] = f
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/snapshot", s.serveSnapshot)
	mux.HandleFunc("GET /v1/stream", s.serveStream)
	mux.HandleFunc("POST /v1/streams/{id}/ack", s.serveAck)
	mux.HandleFunc("POST /v1/usage", s.serveUsage)
	s.http = httptest.NewServer(mux)
	s.URL = s.http.URL
	tb.Cleanup(func() {
		s.DropStreams()
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

// Put stores flags, with their next version, and pushes them as one delta. It returns the revision.
func (s *Server) Put(flags ...feature.Flag) uint64 {
	return s.change(func(c *Change) {
		for _, f := range flags {
			f.Version = max(f.Version, s.flags[f.Key].Version+1)
			s.flags[f.Key] = f
			c.Flags = append(c.Flags, f)
			c.Ack = c.Ack || f.Killed != nil
		}
	})
}

// PutSegments stores segments and pushes them.
func (s *Server) PutSegments(segments ...feature.Segment) uint64 {
	return s.change(func(c *Change) {
		for _, seg := range segments {
			seg.Version = s.segments[seg.Key].Version + 1
			s.segments[seg.Key] = seg
			c.Segments = append(c.Segments, seg)
		}
	})
}

// Drop removes flags.
func (s *Server) Drop(keys ...string) uint64 {
	return s.change(func(c *Change) {
		for _, key := range keys {
			delete(s.flags, key)
		}
		c.DroppedFlags = keys
	})
}

// Kill kills a flag that the server has.
func (s *Server) Kill(key, by, why string) uint64 {
	s.mu.Lock()
	f := s.flags[key]
	s.mu.Unlock()
	f.Killed = &feature.Kill{By: by, Why: why}
	return s.Put(f)
}

func (s *Server) change(edit func(*Change)) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	c := Change{Revision: s.revision}
	edit(&c)
	s.deltas = append(s.deltas, c)
	close(s.changed)
	s.changed = make(chan struct{})
	return s.revision
}

// Compact forgets all deltas: who resumes gets a reset.
func (s *Server) Compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deltas = nil
}

// RefuseStreams answers new streams with a status and, unless it is "", a Retry-After. 0 admits them again.
func (s *Server) RefuseStreams(status int, retryAfter string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse, s.wait = status, retryAfter
}

// SetBroken makes every answer but acknowledgements a 500.
func (s *Server) SetBroken(broken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = broken
}

// DropStreams ends all open streams.
func (s *Server) DropStreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.dropped)
	s.dropped = make(chan struct{})
}

// Stats tells how many streams were opened, are open, and how many snapshots were asked for.
func (s *Server) Stats() (opened, open, polls int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams, s.open, s.polls
}

// Since lists the revisions that streams were resumed from.
func (s *Server) Since() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.since)
}

func (s *Server) snapshot() snapshot {
	out := snapshot{Revision: s.revision, Flags: []feature.Flag{}, Segments: []feature.Segment{}}
	for _, f := range s.flags {
		out.Flags = append(out.Flags, f)
	}
	for _, seg := range s.segments {
		out.Segments = append(out.Segments, seg)
	}
	slices.SortFunc(out.Flags, func(a, b feature.Flag) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func (s *Server) serveSnapshot(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.polls++
	snap, broken := s.snapshot(), s.broken
	s.mu.Unlock()
	etag := fmt.Sprintf("%q", strconv.FormatUint(snap.Revision, 10))
	switch {
	case broken:
		http.Error(w, `{"error":{"code":"GENERAL","message":"broken"}}`, http.StatusInternalServerError)
		return
	case r.Header.Get("If-None-Match") == etag:
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("ETag", etag)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(mustJSON(snap))
}

func (s *Server) serveStream(w http.ResponseWriter, r *http.Request) {
	since, _ := strconv.ParseUint(r.Header.Get("Last-Event-ID"), 10, 64)
	s.mu.Lock()
	s.streams++
	id := fmt.Sprintf("stream-%d", s.streams)
	s.since = append(s.since, since)
	refuse, wait, broken, dropped := s.refuse, s.wait, s.broken, s.dropped
	rev := s.revision
	s.mu.Unlock()
	if broken {
		refuse = http.StatusInternalServerError
	}
	if refuse != 0 {
		if wait != "" {
			w.Header().Set("Retry-After", wait)
		}
		http.Error(w, `{"error":{"code":"UNAVAILABLE","message":"no more streams"}}`, refuse)
		return
	}
	s.count(1)
	defer s.count(-1)
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprintf(w, "retry: 20\nevent: hello\ndata: {\"stream\":%q,\"revision\":%d,\"heartbeat_ms\":%d}\n\n", id, rev, s.heartbeat.Milliseconds())
	s.pump(w, r, since, dropped)
}

func (s *Server) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += n
}

// pump writes what a stream at a revision lacks, then waits for more.
func (s *Server) pump(w http.ResponseWriter, r *http.Request, at uint64, dropped <-chan struct{}) {
	for {
		s.mu.Lock()
		changed, revision := s.changed, s.revision
		var snap *snapshot
		var deltas []Change
		if at != revision {
			if len(s.deltas) > 0 && at >= s.deltas[0].Revision-1 && at < revision {
				deltas = slices.Clone(s.deltas[at+1-s.deltas[0].Revision:])
			} else {
				whole := s.snapshot()
				snap = &whole
			}
		}
		s.mu.Unlock()
		select {
		case <-dropped: // before anything that changed after the drop
			return
		default:
		}
		if snap != nil {
			fmt.Fprintf(w, "event: reset\nid: %d\ndata: %s\n\n", snap.Revision, mustJSON(snap))
		}
		for _, d := range deltas {
			fmt.Fprintf(w, "event: delta\nid: %d\ndata: %s\n\n", d.Revision, mustJSON(d))
		}
		at = revision
		_ = http.NewResponseController(w).Flush()
		select {
		case <-changed:
		case <-dropped:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (s *Server) serveAck(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Revision uint64 `json:"revision"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<10)).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case s.Acks <- Ack{r.PathValue("id"), body.Revision}:
	default:
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) serveUsage(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Client string       `json:"client"`
		Counts []UsageCount `json:"counts"`
	}
	s.mu.Lock()
	broken := s.broken
	s.mu.Unlock()
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&body); err != nil || broken {
		http.Error(w, "no", http.StatusInternalServerError)
		return
	}
	select {
	case s.Usage <- body.Counts:
	default:
	}
	w.WriteHeader(http.StatusNoContent)
}
