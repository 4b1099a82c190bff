package flagd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

func TestStreamFollows(t *testing.T) {
	r := newWorld(t).server()
	f := r.put(boolFlag("a", 0))
	l := r.listen("/v1/stream?client=shop")
	var hello struct {
		Stream    string `json:"stream"`
		Revision  int64  `json:"revision"`
		Heartbeat int    `json:"heartbeat_ms"`
	}
	if err := json.Unmarshal([]byte(l.want("hello").data), &hello); err != nil || hello.Stream == "" || hello.Revision == 0 || hello.Heartbeat != 15000 {
		t.Fatalf("hello %+v: %v", hello, err)
	}
	if d := l.want("reset").delta(t); len(d.Flags) != 1 || d.Flags[0].Key != "a" || d.Revision != hello.Revision {
		t.Fatalf("reset %+v", d)
	}
	f.Dial = 250
	r.put(f)
	e := l.want("delta")
	if d := e.delta(t); len(d.Flags) != 1 || d.Flags[0].Dial != 250 || d.Ack || e.id != fmt.Sprint(d.Revision) {
		t.Fatalf("delta %+v", d)
	}
	r.putSegment(&murmurv1.FlagSegment{Key: "staff", Included: []string{"u1"}})
	if d := l.want("delta").delta(t); len(d.Segments) != 1 {
		t.Fatalf("delta %+v", d)
	}
	if _, err := r.api().DeleteFlag(t.Context(), connect.NewRequest(&murmurv1.DeleteFlagRequest{Key: "a", Version: 2})); err != nil {
		t.Fatal(err)
	}
	if d := l.want("delta").delta(t); !slices.Equal(d.DroppedFlags, []string{"a"}) {
		t.Fatalf("delta %+v", d)
	}
}

func TestStreamResumes(t *testing.T) {
	r := newWorld(t).server()
	r.put(boolFlag("a", 0))
	l := r.listen("/v1/stream")
	l.want("hello")
	l.want("reset")
	l.close()
	r.put(boolFlag("b", 0))
	r.put(boolFlag("c", 0))
	again := r.listen("/v1/stream?since=1", "Last-Event-ID", l.last)
	again.want("hello")
	for _, key := range []string{"b", "c"} {
		if d := again.want("delta").delta(t); len(d.Flags) != 1 || d.Flags[0].Key != key {
			t.Fatalf("delta %+v, want %s", d, key)
		}
	}
	// Revisions that mean nothing here get everything: too old, and from the future.
	for _, since := range []string{"1", "999999999"} {
		l := r.listen("/v1/stream?since=" + since)
		l.want("hello")
		if d := l.want("reset").delta(t); len(d.Flags) != 3 {
			t.Fatalf("since %s: %+v", since, d)
		}
	}
}

// TestKillsGoFirst: a stream that is behind gets the kill before the deltas it waits for.
func TestKillsGoFirst(t *testing.T) {
	r := newWorld(t).server()
	f := r.put(boolFlag("a", 0))
	start := r.view.load().rev
	for i := range 5 {
		f.Dial = int32(i + 1)
		f = r.put(f)
	}
	r.put(boolFlag("hot", 10000))
	r.kill("hot")
	var names []string
	for _, f := range r.view.load().after(start) {
		names = append(names, strings.TrimPrefix(strings.SplitN(string(f), "\n", 2)[0], "event: "))
	}
	want := []string{"kill", "delta", "delta", "delta", "delta", "delta", "delta", "delta"}
	if !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
	l := r.listen(fmt.Sprintf("/v1/stream?since=%d", start))
	l.want("hello")
	d := l.want("kill").delta(t)
	if len(d.Flags) != 1 || d.Flags[0].Killed == nil || !d.Ack || l.last != "" {
		t.Errorf("kill %+v, id %q", d, l.last)
	}
}

// TestKillCountsConfirmations: the kill answers how many clients have confirmed, and does not wait for more than all.
func TestKillCountsConfirmations(t *testing.T) {
	t.Parallel()
	r := newWorld(t).server()
	r.put(boolFlag("hot", 10000))
	const clients = 3
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range clients {
		l := r.listen("/v1/stream")
		var hello struct{ Stream string }
		if err := json.Unmarshal([]byte(l.want("hello").data), &hello); err != nil {
			t.Fatal(err)
		}
		l.want("reset")
		wg.Go(func() {
			e, err := l.read()
			if err != nil || i == 0 {
				l.close() // the first goes away instead of confirming
				return
			}
			r.do("POST", "/v1/streams/"+hello.Stream+"/ack", fmt.Sprintf(`{"revision":%s}`, e.id))
		})
	}
	until(t, "all streams are open", func() bool { return r.hub.stats().native == clients })
	resp, err := r.api().KillFlags(t.Context(), connect.NewRequest(&murmurv1.KillFlagsRequest{Key: "hot", WaitMs: 10_000}))
	if err != nil {
		t.Fatal(err)
	}
	if resp.Msg.Clients != clients || resp.Msg.Confirmed != clients-1 {
		t.Errorf("%d of %d confirmed, want %d of %d", resp.Msg.Confirmed, resp.Msg.Clients, clients-1, clients)
	}
}

func TestOFREPEvents(t *testing.T) {
	t.Parallel()
	r := newWorld(t).server()
	f := r.put(boolFlag("a", 0))
	var bulk struct {
		EventStreams []struct {
			Type     string `json:"type"`
			Endpoint struct {
				RequestURI string `json:"requestUri"`
			} `json:"endpoint"`
		} `json:"eventStreams"`
	}
	until(t, "tickets are issued", func() bool {
		if err := json.Unmarshal([]byte(r.do("POST", ofrepBulkPath, `{}`).body), &bulk); err != nil {
			t.Fatal(err)
		}
		return len(bulk.EventStreams) == 1
	})
	uri := bulk.EventStreams[0].Endpoint.RequestURI
	if strings.Contains(uri, r.w.token) || bulk.EventStreams[0].Type != "sse" {
		t.Fatalf("%+v", bulk)
	}
	l := r.listen(uri, "Authorization", "")
	type message struct{ Type, Etag string }
	read := func() message {
		e := l.next()
		var m message
		if err := json.Unmarshal([]byte(e.data), &m); err != nil || e.name != "" || m.Type != "refetchEvaluation" {
			t.Fatalf("%+v: %v", e, err)
		}
		return m
	}
	first := read() // at connect
	f.Dial = 1
	r.put(f)
	if second := read(); second == first {
		t.Error("the tag did not change")
	}
	// A schedule moves a dial without a write.
	f = r.put(boolFlag("timed", 0))
	read()
	f.Schedule = &murmurv1.FlagSchedule{Stages: []*murmurv1.FlagStage{{At: timestamppb.New(time.Now().Add(1500 * time.Millisecond)), Dial: 10000}}}
	r.put(f)
	read()
	read()
}

func TestTickets(t *testing.T) {
	a, b, other := &tickets{}, &tickets{}, &tickets{}
	now := time.Unix(1_800_000_000, 0)
	if a.issue(now) != "" || a.good("", now) {
		t.Error("tickets without a secret")
	}
	a.set([]byte(strings.Repeat("a", 32)))
	b.set([]byte(strings.Repeat("a", 32)))
	other.set([]byte(strings.Repeat("b", 32)))
	ticket := a.issue(now)
	if ticket != a.issue(now.Add(time.Minute)) {
		t.Error("the ticket changes within its window, so clients would reconnect for ever")
	}
	if !b.good(ticket, now.Add(ticketWindow)) || b.good(ticket, now.Add(2*ticketWindow)) || other.good(ticket, now) {
		t.Error("a ticket is good where or when it should not be, or is not")
	}
	for i := range len(ticket) {
		flipped := []byte(ticket)
		flipped[i] ^= 1
		if i < len(ticket)-1 && b.good(string(flipped), now) {
			t.Errorf("byte %d does not matter", i)
		}
	}
}

// TestSlowReader: a client that takes nothing is cut, and nobody waits for it.
func TestSlowReader(t *testing.T) {
	r := newWorld(t).server(func(c *Config) { c.pace.write = 300 * time.Millisecond })
	f := r.put(boolFlag("a", 0))
	slow := &stuckWriter{recorder: newRecorder(), takes: 2} // the hello and the reset
	req := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/stream", nil)
	req.Header.Set("Authorization", "Bearer "+r.w.token)
	ended := make(chan struct{})
	go func() { defer close(ended); r.Handler().ServeHTTP(slow, req) }()
	fast := r.listen("/v1/stream")
	fast.want("hello")
	fast.want("reset")
	until(t, "both are open", func() bool { return r.hub.stats().native == 2 })
	for i := range 20 {
		f.Dial = int32(i + 1)
		f = r.put(f)
		if d := fast.want("delta").delta(t); int32(d.Flags[0].Dial) != f.Dial {
			t.Fatalf("the fast stream got dial %d, want %d", d.Flags[0].Dial, f.Dial)
		}
	}
	<-ended
	if native := r.hub.stats().native; native != 1 {
		t.Errorf("%d streams are open, want the fast one", native)
	}
}

// TestAdmission: thousands who come at once are let in gradually, the rest is told to wait, all differently.
func TestAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(2000, 100)
		time.Sleep(time.Second)
		in, waits := 0, map[int]int{}
		for range 3000 {
			if after, ok := h.enter(); ok {
				in++
			} else {
				waits[after]++
			}
		}
		if in != 100 || len(waits) < 5 {
			t.Errorf("%d admitted at once, waits %v", in, waits)
		}
		seconds := 0
		for ; h.stats().open < 2000; seconds++ {
			time.Sleep(time.Second)
			for range 3000 {
				h.enter()
			}
		}
		if seconds != 19 {
			t.Errorf("full after %d s, want 19", seconds)
		}
		time.Sleep(time.Minute)
		if _, ok := h.enter(); ok {
			t.Error("more than the limit")
		}
		h.leave()
		if _, ok := h.enter(); !ok {
			t.Error("not even one after one left")
		}
	})
}

// TestMassReconnect: 2,000 clients connect at once; those refused get a JSON 503 with Retry-After and get in later.
func TestMassReconnect(t *testing.T) {
	r := newWorld(t).server(func(c *Config) { c.StreamRate = 1000 })
	r.put(boolFlag("a", 0))
	begin := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	admitted, refused := 0, 0
	for range 2500 {
		wg.Go(func() {
			<-begin
			w := newRecorder()
			req := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/stream", nil)
			req.Header.Set("Authorization", "Bearer "+r.w.token)
			ctx, cancel := withCancel(req)
			w.onFlush = cancel
			r.Handler().ServeHTTP(w, ctx)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case w.status == http.StatusOK:
				admitted++
			case w.status == http.StatusServiceUnavailable && w.header.Get("Retry-After") != "" && strings.Contains(w.header.Get("Content-Type"), "json"):
				refused++
			default:
				t.Errorf("status %d, headers %v", w.status, w.header)
			}
		})
	}
	close(begin)
	wg.Wait()
	if admitted < 1000 || refused == 0 || admitted+refused != 2500 {
		t.Errorf("%d admitted, %d refused", admitted, refused)
	}
	if open := r.hub.stats().open; open != 0 {
		t.Errorf("%d streams leaked", open)
	}
}

// TestRing: the ring is bounded in number and bytes, and says how far back it reaches.
func TestRing(t *testing.T) {
	s := &state{}
	for rev := int64(1); rev <= 3*ringDeltas; rev++ {
		s.ring, s.oldest = push(s.ring, s.oldest, &delta{rev: rev})
		s.rev = rev
	}
	if len(s.ring) != ringDeltas || s.oldest != 2*ringDeltas {
		t.Errorf("%d deltas after %d", len(s.ring), s.oldest)
	}
	if got, ok := s.since(s.oldest); !ok || len(got) != ringDeltas || got[0].rev != s.oldest+1 {
		t.Errorf("since the oldest: %d, %v", len(got), ok)
	}
	if _, ok := s.since(s.oldest - 1); ok {
		t.Error("it claims to reach back further than it does")
	}
	big := &delta{rev: s.rev + 1, frame: make([]byte, ringBytes+1)}
	if ring, _ := push(s.ring, s.oldest, big); len(ring) != 1 {
		t.Errorf("%d deltas beside one that fills the ring", len(ring))
	}
	if got, ok := s.since(s.rev); !ok || len(got) != 0 {
		t.Errorf("up to date: %d, %v", len(got), ok)
	}
}

func TestHeartbeatAndLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBeat(pace{heartbeat: 15 * time.Second, life: time.Hour})
		defer b.stop()
		beats, begun := 0, time.Now()
		for {
			<-b.timer.C
			if b.over() {
				break
			}
			beats++
			b.wrote()
		}
		if life := time.Since(begun); life < 45*time.Minute || life > 75*time.Minute+time.Second || beats < 179 {
			t.Errorf("%d beats in %v", beats, life)
		}
	})
}
