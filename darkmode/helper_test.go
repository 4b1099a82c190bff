package darkmode

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/murmuration/murmuration/darkmode/darkmodetest"
	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
)

// deadline ends a wait that would never end; nothing is measured by it.
const deadline = 10 * time.Second

// watcher records the events of a client.
type watcher struct {
	events chan Event
}

func watch(t testing.TB, c *Client) *watcher {
	w := &watcher{events: make(chan Event, 1024)}
	t.Cleanup(c.Subscribe(func(e Event) { w.events <- e }))
	return w
}

// until waits for an event that is as wanted.
func (w *watcher) until(t testing.TB, what string, wanted func(Event) bool) Event {
	t.Helper()
	limit := time.After(deadline)
	for {
		select {
		case e := <-w.events:
			if wanted(e) {
				return e
			}
		case <-limit:
			t.Fatalf("no event: %s", what)
		}
	}
}

func (w *watcher) revision(t testing.TB, n uint64) Event {
	t.Helper()
	return w.until(t, "the new revision", func(e Event) bool { return e.Kind == FlagsChanged && e.Status.Revision >= n })
}

func (w *watcher) kind(t testing.TB, k EventKind) Event {
	t.Helper()
	return w.until(t, "of its kind", func(e Event) bool { return e.Kind == k })
}

// fast are settings under which nothing waits long.
func fast(urls ...string) Config {
	return Config{
		Name: "test", Servers: urls, MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond, PollInterval: 5 * time.Millisecond,
		ReportInterval: -1,
	}
}

// start starts a client that follows a server, and waits for its first state.
func start(t testing.TB, cfg Config) (*Client, *watcher) {
	t.Helper()
	c := New(cfg)
	w := watch(t, c)
	c.Start(t.Context())
	t.Cleanup(func() { closeClient(t, c) })
	return c, w
}

func closeClient(t testing.TB, c *Client) {
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func waitReady(t testing.TB, c *Client) {
	t.Helper()
	select {
	case <-c.Ready():
	case <-time.After(deadline):
		t.Fatalf("not ready: %+v", c.Status())
	}
}

func wantBool(t testing.TB, c *Client, key string, want bool) {
	t.Helper()
	if got := c.Bool(key, "u", !want); got != want {
		t.Errorf("%s is %v, want %v (%+v)", key, got, want, c.Status())
	}
}

// wantDefault checks that a flag is not there.
func wantDefault(t testing.TB, c *Client, key string) {
	t.Helper()
	if !c.Bool(key, "u", true) || c.Bool(key, "u", false) {
		t.Errorf("%s does not give the default (%+v)", key, c.Status())
	}
}

func on(key string) feature.Flag  { return darkmodetest.Bool(key, dial.Full) }
func off(key string) feature.Flag { return darkmodetest.Bool(key, dial.Off) }

// script is a transport that answers streams from a list, then with nothing but 503, and everything else with 404.
type script struct {
	mu      sync.Mutex
	streams []string // bodies
	asked   []string // Last-Event-ID of each stream
	done    chan struct{}
}

func newScript(bodies ...string) *script {
	return &script{streams: bodies, done: make(chan struct{})}
}

// RoundTrip answers without a network.
func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("")), Request: r}
	if r.URL.Path != "/v1/stream" {
		return resp, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r.Header.Get("Last-Event-ID"))
	if len(s.asked) > len(s.streams) {
		if len(s.asked) == len(s.streams)+1 {
			close(s.done)
		}
		resp.StatusCode = http.StatusServiceUnavailable
		resp.Header.Set("Retry-After", "60")
		return resp, nil
	}
	resp.StatusCode = http.StatusOK
	resp.Header.Set("Content-Type", "text/event-stream; charset=utf-8")
	resp.Body = io.NopCloser(strings.NewReader(s.streams[len(s.asked)-1]))
	return resp, nil
}

// play runs a client through the bodies of one stream each and returns it with what was asked.
func play(t testing.TB, cfg Config, bodies ...string) (*Client, *script) {
	t.Helper()
	s := newScript(bodies...)
	cfg.Servers, cfg.HTTPClient = []string{"http://flagd.test"}, &http.Client{Transport: s}
	c := New(cfg)
	c.Start(t.Context())
	select {
	case <-s.done:
	case <-time.After(deadline):
		t.Fatal("the client asked for no further stream")
	}
	closeClient(t, c)
	return c, s
}
