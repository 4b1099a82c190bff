package flagd

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/memstore"
	"github.com/murmuration/murmuration/internal/record"
)

const (
	adminPassword = "correct horse battery"
	patience      = 20 * time.Second // how long a test waits for what must happen
)

// world is one store with its identities.
type world struct {
	tb    testing.TB
	store record.Store
	mem   *memstore.Store // nil when the store is another
	ca    *identity.CA
	token string
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	store := memstore.New()
	tb.Cleanup(func() { store.Close() })
	w := worldOver(tb, store)
	w.mem = store
	return w
}

func worldOver(tb testing.TB, store record.Store) *world {
	tb.Helper()
	ca, err := identity.NewCA("test fleet", time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	w := &world{tb: tb, store: store, ca: ca}
	auth := w.authority()
	if err := auth.Init(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	if _, err := auth.Bootstrap(tb.Context(), "root", adminPassword); err != nil {
		tb.Fatal(err)
	}
	if w.token, _, _, err = auth.Login(tb.Context(), "root", adminPassword); err != nil {
		tb.Fatal(err)
	}
	return w
}

func (w *world) authority() *identity.Authority {
	w.tb.Helper()
	auth, err := identity.New(identity.Config{
		Store: w.store, CA: w.ca, Password: identity.PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1},
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	return auth
}

// running is a server under test.
type running struct {
	*Server
	w      *world
	client *http.Client
	stop   func()
}

// server starts one more server over the world's store and waits until it is ready.
func (w *world) server(configure ...func(*Config)) *running {
	w.tb.Helper()
	r := w.start(configure...)
	select {
	case <-r.Ready():
	case <-time.After(patience):
		w.tb.Fatal("the server does not become ready")
	}
	return r
}

func (w *world) start(configure ...func(*Config)) *running {
	w.tb.Helper()
	cfg := Config{
		Store: w.store, Authority: w.authority(), ID: "flagd-1", Dir: w.tb.TempDir(), Log: testLog(w.tb), DrainTimeout: 200 * time.Millisecond,
		pace: pace{catchUp: 200 * time.Millisecond, trusted: time.Minute},
	}
	for _, f := range configure {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		w.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			w.tb.Errorf("Run: %v", err)
		}
	})
	wg.Go(func() { _ = cfg.Authority.Run(ctx) })
	transport := &http.Transport{
		TLSClientConfig: identity.SeederClientConfig(w.ca.Pool(), nil, ""), MaxIdleConnsPerHost: 64, DisableCompression: true,
	}
	stop := sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		transport.CloseIdleConnections()
	})
	w.tb.Cleanup(stop)
	return &running{Server: s, w: w, client: &http.Client{Transport: transport}, stop: stop}
}

// testLog logs into the test's output, only when -v asks for it.
func testLog(tb testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// answer is an HTTP answer, read whole.
type answer struct {
	status int
	header http.Header
	body   string
}

// do makes a request as the admin. Headers are name, value, name, value...
func (r *running) do(method, path, body string, headers ...string) answer {
	r.w.tb.Helper()
	return r.try(method, path, strings.NewReader(body), append([]string{"Authorization", "Bearer " + r.w.token}, headers...)...)
}

func (r *running) try(method, path string, body io.Reader, headers ...string) answer {
	r.w.tb.Helper()
	req, err := http.NewRequestWithContext(r.w.tb.Context(), method, "https://"+r.Addr()+path, body)
	if err != nil {
		r.w.tb.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.w.tb.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		r.w.tb.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(got)}
}

// json decodes an answer's body.
func (a answer) json(tb testing.TB) map[string]any {
	tb.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		tb.Fatalf("status %d, body %q: %v", a.status, a.body, err)
	}
	return v
}

// api is the admin's client of the write side.
func (r *running) api() murmurv1connect.FlagServiceClient {
	return murmurv1connect.NewFlagServiceClient(r.client, "https://"+r.Addr(), connect.WithInterceptors(bearer(r.w.token)))
}

// bearer adds a token to every request.
func bearer(token string) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			req.Header().Set("Authorization", "Bearer "+token)
			return next(ctx, req)
		}
	}
}

// boolFlag is a boolean flag at a dial.
func boolFlag(key string, dial int32) *murmurv1.Flag {
	return &murmurv1.Flag{
		Key: key, Type: "boolean", On: "on", Off: "off", Dial: dial,
		Variants: []*murmurv1.FlagVariant{{Name: "on", ValueJson: "true"}, {Name: "off", ValueJson: "false"}},
	}
}

// put writes a flag that must be written.
func (r *running) put(f *murmurv1.Flag) *murmurv1.Flag {
	r.w.tb.Helper()
	resp, err := r.api().PutFlag(r.w.tb.Context(), connect.NewRequest(&murmurv1.PutFlagRequest{Flag: f, Reason: "test"}))
	if err != nil {
		r.w.tb.Fatal(err)
	}
	return resp.Msg.Flag
}

// putSegment writes a segment that must be written.
func (r *running) putSegment(seg *murmurv1.FlagSegment) *murmurv1.FlagSegment {
	r.w.tb.Helper()
	resp, err := r.api().PutSegment(r.w.tb.Context(), connect.NewRequest(&murmurv1.PutSegmentRequest{Segment: seg}))
	if err != nil {
		r.w.tb.Fatal(err)
	}
	return resp.Msg.Segment
}

func (r *running) kill(key string) *murmurv1.KillFlagsResponse {
	r.w.tb.Helper()
	resp, err := r.api().KillFlags(r.w.tb.Context(), connect.NewRequest(&murmurv1.KillFlagsRequest{Key: key, Reason: "it burns", WaitMs: -1}))
	if err != nil {
		r.w.tb.Fatal(err)
	}
	return resp.Msg
}

// event is one server-sent event.
type event struct {
	name, id, data string
}

// listener reads one event stream.
type listener struct {
	tb   testing.TB
	body io.ReadCloser
	scan *bufio.Scanner
	last string // id
}

// listen opens an event stream, which must be admitted.
func (r *running) listen(path string, headers ...string) *listener {
	r.w.tb.Helper()
	ctx, cancel := context.WithCancel(r.w.tb.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+r.Addr()+path, nil)
	if err != nil {
		r.w.tb.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.w.token)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		cancel()
		r.w.tb.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		cancel()
		r.w.tb.Fatalf("stream: status %d", resp.StatusCode)
	}
	l := &listener{tb: r.w.tb, body: resp.Body, scan: bufio.NewScanner(resp.Body)}
	l.scan.Buffer(make([]byte, 0, 64<<10), 32<<20)
	timer := time.AfterFunc(patience, cancel)
	r.w.tb.Cleanup(func() { timer.Stop(); cancel(); resp.Body.Close() })
	return l
}

func (l *listener) close() { l.body.Close() }

// next reads the next event that is no heartbeat and no retry.
func (l *listener) next() event {
	l.tb.Helper()
	e, err := l.read()
	if err != nil {
		l.tb.Fatal(err)
	}
	return e
}

func (l *listener) read() (event, error) {
	var e event
	for l.scan.Scan() {
		line := l.scan.Text()
		field, value, _ := strings.Cut(line, ": ")
		switch {
		case line == "" && e.data != "":
			return e, nil
		case field == "event":
			e.name = value
		case field == "id":
			e.id, l.last = value, value
		case field == "data":
			e.data += value
		}
	}
	return e, fmt.Errorf("the stream ended: %v", l.scan.Err())
}

// want reads the next event, which must be of a name.
func (l *listener) want(name string) event {
	l.tb.Helper()
	e := l.next()
	if e.name != name {
		l.tb.Fatalf("event %+v, want %q", e, name)
	}
	return e
}

func (e event) delta(tb testing.TB) deltaJSON {
	tb.Helper()
	var d deltaJSON
	if err := json.Unmarshal([]byte(e.data), &d); err != nil {
		tb.Fatal(err)
	}
	return d
}

// until polls for what must become true.
func until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("it does not happen: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
