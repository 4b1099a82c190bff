package flagd

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/murmuration/murmuration/feature"
)

var heartbeat = []byte(": hb\n\n")

// eventStream writes server-sent events.
type eventStream struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration
}

// openStream begins the answer. Streams read nothing more, so the read limit of the server ends here.
func openStream(w http.ResponseWriter, timeout time.Duration) *eventStream {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // not every writer can; then there was none
	return &eventStream{w: w, rc: rc, timeout: timeout}
}

// send writes frames and flushes. It fails when the client takes nothing for the time limit.
func (e *eventStream) send(frames ...[]byte) error {
	_ = e.rc.SetWriteDeadline(time.Now().Add(e.timeout)) // as above
	for _, f := range frames {
		if _, err := e.w.Write(f); err != nil {
			return err
		}
	}
	return e.rc.Flush()
}

// retryFrame asks the client to wait 1 to 5 s before it reconnects.
func retryFrame() []byte { return fmt.Appendf(nil, "retry: %d\n\n", 1000+rand.IntN(4001)) }

// admitStream lets a stream in or answers that it must wait.
func (s *Server) admitStream(w http.ResponseWriter) bool {
	retryAfter, ok := s.hub.enter()
	if !ok {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
		fail(w, http.StatusServiceUnavailable, "UNAVAILABLE", "too many streams, or too many at once: wait as Retry-After says")
	}
	return ok
}

// nativeStream is GET /v1/stream.
func (s *Server) nativeStream(w http.ResponseWriter, r *http.Request, who string) {
	since, client, err := streamParameters(r, who)
	if err != nil {
		fail(w, http.StatusBadRequest, string(feature.ParseError), err.Error())
		return
	}
	if s.view.load().rev == 0 {
		fail(w, http.StatusServiceUnavailable, "UNAVAILABLE", notReady)
		return
	}
	if !s.admitStream(w) {
		return
	}
	begun := time.Now()
	defer s.hub.leave()
	// A client that joins before its first look at the state misses no kill: either the state has it or a delta does.
	st := s.hub.join(client)
	defer s.hub.part(st)
	out := openStream(w, s.cfg.pace.write)
	s.begin(w.Header(), s.view.load())
	why := s.pump(r, out, st, since)
	s.metrics.streamEnded("native", time.Since(begun), why)
}

// streamParameters reads where to resume and who listens.
func streamParameters(r *http.Request, who string) (since int64, client string, err error) {
	q := r.URL.Query()
	client = q.Get("client")
	if len(client) > 128 || !utf8.ValidString(client) {
		return 0, "", fmt.Errorf("client must be UTF-8 of at most 128 bytes")
	}
	if client == "" {
		client = who
	}
	text := r.Header.Get("Last-Event-Id")
	if text == "" {
		text = q.Get("since")
	}
	if text == "" {
		return 0, client, nil
	}
	if since, err = strconv.ParseInt(text, 10, 64); err != nil || since < 0 {
		return 0, "", fmt.Errorf("%.32q is no revision", text)
	}
	return since, client, nil
}

// pump writes to one stream until either side ends, and says why.
func (s *Server) pump(r *http.Request, out *eventStream, me *stream, pos int64) string {
	st := s.view.load()
	hello := fmt.Appendf(nil, `{"stream":%q,"revision":%d,"heartbeat_ms":%d}`, me.id, st.rev, s.cfg.pace.heartbeat.Milliseconds())
	if out.send(retryFrame(), frame("hello", 0, hello)) != nil {
		return "broken"
	}
	st = s.view.reach(r.Context(), pos, s.cfg.pace.catchUp)
	beat := newBeat(s.cfg.pace)
	defer beat.stop()
	for {
		if frames := st.after(pos); len(frames) > 0 {
			if out.send(frames...) != nil {
				return "slow or broken"
			}
			beat.wrote()
		}
		pos = st.rev
		select {
		case <-st.next:
			st = s.view.load()
		case <-beat.timer.C:
			if beat.over() {
				return "life"
			}
			if out.send(heartbeat) != nil {
				return "slow or broken"
			}
			beat.wrote()
		case <-r.Context().Done():
			return "client"
		case <-s.stopping:
			return "stop"
		}
	}
}

// after is what a stream at a revision must be written next: the deltas since, with kills ahead of those that would
// have to wait behind others, or the whole state.
func (s *state) after(pos int64) [][]byte {
	deltas, ok := s.since(pos)
	if !ok {
		return [][]byte{s.whole().frame}
	}
	var frames [][]byte
	for i, d := range deltas {
		if i > 0 && d.kill != nil {
			frames = append(frames, d.kill)
		}
	}
	for _, d := range deltas {
		frames = append(frames, d.frame)
	}
	return frames
}

// beat is the one timer of a stream: the next heartbeat, or the end of its life.
type beat struct {
	every time.Duration
	end   time.Time
	timer *time.Timer
}

func newBeat(p pace) *beat {
	life := p.life*3/4 + rand.N(p.life/2+1)
	b := &beat{every: p.heartbeat, end: time.Now().Add(life), timer: time.NewTimer(p.heartbeat)}
	b.wrote()
	return b
}

// wrote puts the next heartbeat off.
func (b *beat) wrote() { b.timer.Reset(max(min(b.every, time.Until(b.end)), 0)) }

func (b *beat) over() bool { return !time.Now().Before(b.end) }

func (b *beat) stop() { b.timer.Stop() }

// snapshot is GET /v1/snapshot.
func (s *Server) snapshot(w http.ResponseWriter, r *http.Request, _ string) {
	st := s.view.load()
	if st.rev == 0 {
		fail(w, http.StatusServiceUnavailable, "UNAVAILABLE", notReady)
		return
	}
	whole := st.whole()
	h := w.Header()
	s.begin(h, st)
	h.Set("Cache-Control", "no-cache") // keep it, but ask each time
	h.Set("ETag", whole.etag)
	h.Set("Vary", "Accept-Encoding")
	if matches(r.Header["If-None-Match"], whole.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := whole.body
	if acceptsGzip(r.Header.Get("Accept-Encoding")) {
		h.Set("Content-Encoding", "gzip")
		body = whole.zipped
	}
	writeJSON(w, http.StatusOK, body)
}

// acceptsGzip reports whether a client takes gzip: named, and not with quality 0.
func acceptsGzip(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
			continue
		}
		value, ok := strings.CutPrefix(strings.TrimSpace(q), "q=")
		weight, err := strconv.ParseFloat(value, 64)
		return !ok || err == nil && weight > 0
	}
	return false
}

// bell wakes everyone who waits for a schedule to move a dial.
type bell struct {
	mu sync.Mutex
	ch chan struct{}
}

func newBell() *bell { return &bell{ch: make(chan struct{})} }

// wait returns what is closed at the next ring.
func (b *bell) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ch)
	b.ch = make(chan struct{})
}

// ofrepEvents is the event stream that bulk answers name. Its ticket was checked by the route.
func (s *Server) ofrepEvents(w http.ResponseWriter, r *http.Request) {
	allowOrigin(w, r)
	if !s.tickets.good(r.URL.Query().Get("ticket"), time.Now()) {
		ofrepFail(w, http.StatusUnauthorized, "", string(feature.General), "the ticket is unknown or over: evaluate all flags again for a new one")
		return
	}
	if !s.admitStream(w) {
		return
	}
	begun := time.Now()
	defer s.hub.leave()
	why := s.pumpEvents(r, openStream(w, s.cfg.pace.write))
	s.metrics.streamEnded("ofrep", time.Since(begun), why)
}

// pumpEvents sends refetchEvaluation at once and at every change after.
func (s *Server) pumpEvents(r *http.Request, out *eventStream) string {
	if out.send(retryFrame()) != nil {
		return "broken"
	}
	beat := newBeat(s.cfg.pace)
	defer beat.stop()
	told := ""
	for {
		moved, st, now := s.moved.wait(), s.view.load(), time.Now()
		if etag := st.configETag(now); etag != told {
			told = etag
			if out.send(refetchFrame(st, etag, now)) != nil {
				return "slow or broken"
			}
			beat.wrote()
		}
		select {
		case <-st.next:
		case <-moved:
		case <-beat.timer.C:
			if beat.over() {
				return "life"
			}
			if out.send(heartbeat) != nil {
				return "slow or broken"
			}
			beat.wrote()
		case <-r.Context().Done():
			return "client"
		case <-s.stopping:
			return "stop"
		}
	}
}

func refetchFrame(st *state, etag string, now time.Time) []byte {
	return fmt.Appendf(nil, "id: %d\ndata: {\"type\":\"refetchEvaluation\",\"etag\":%q,\"lastModified\":%d}\n\n", st.newest, etag, now.Unix())
}
