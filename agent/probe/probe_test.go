package probe

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/murmuration/murmuration/release"
)

func quick(h release.Health) release.Health {
	h.Interval, h.Timeout, h.Deadline = release.Duration(time.Millisecond), release.Duration(2*time.Second), release.Duration(10*time.Second)
	return h
}

func TestHTTPNeedsSuccessesInARow(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := asked.Add(1); n == 3 {
			http.Error(w, "warming up\nsecond line", http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	c := Checks{
		List:  []release.Health{quick(release.Health{HTTP: "/healthz"})},
		Addrs: map[string]string{"main": strings.TrimPrefix(srv.URL, "http://")}, First: "main",
	}
	if err := c.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := asked.Load(); n != 6 { // ok ok fail ok ok ok
		t.Errorf("asked %d times, want 6", n)
	}
}

func TestDeadlineNamesTheLastReason(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "database is gone", http.StatusInternalServerError)
	}))
	defer srv.Close()
	h := quick(release.Health{Name: "front", HTTP: srv.URL + "/x"})
	h.Deadline = release.Duration(50 * time.Millisecond)
	err := Checks{List: []release.Health{h}}.Await(t.Context())
	if !errors.Is(err, ErrUnhealthy) || !strings.Contains(err.Error(), "front") || !strings.Contains(err.Error(), "database is gone") {
		t.Errorf("got %v", err)
	}
}

func TestSilentServiceIsUnhealthy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // connections queue, nobody answers
	h := quick(release.Health{HTTP: "/"})
	h.Timeout, h.Deadline = release.Duration(20*time.Millisecond), release.Duration(80*time.Millisecond)
	c := Checks{List: []release.Health{h}, Addrs: map[string]string{"p": l.Addr().String()}, First: "p"}
	if err := c.Await(t.Context()); !errors.Is(err, ErrUnhealthy) || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("got %v", err)
	}
}

func TestTCPAndExec(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := Checks{Addrs: map[string]string{"main": l.Addr().String()}, Env: []string{"WANT=1"}}
	for _, h := range []release.Health{{TCP: "main"}, {TCP: l.Addr().String()}, {Exec: `test "$WANT" = 1`}} {
		if err := c.Once(t.Context(), h); err != nil {
			t.Errorf("%s: %v", Name(h), err)
		}
	}
	l.Close()
	for _, h := range []release.Health{{TCP: "main"}, {TCP: "other"}, {HTTP: "/", Port: "other"}, {Exec: "echo broken; exit 1"}, {}} {
		if err := c.Once(t.Context(), h); err == nil {
			t.Errorf("%s succeeded", Name(h))
		}
	}
}

func TestUnspecifiedAddressBecomesLoopback(t *testing.T) {
	c := Checks{Addrs: map[string]string{"a": ":80", "b": "0.0.0.0:81", "c": "[::]:82", "d": "10.0.0.7:83"}}
	for port, want := range map[string]string{"a": "127.0.0.1:80", "b": "127.0.0.1:81", "c": "[::1]:82", "d": "10.0.0.7:83"} {
		if got, err := c.addr(port); got != want || err != nil {
			t.Errorf("port %s: %q, %v; want %q", port, got, err, want)
		}
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the process keeps crashing")
	cancel(why)
	c := Checks{List: []release.Health{{Exec: "exit 1"}}}
	if err := c.Await(ctx); !errors.Is(err, why) {
		t.Errorf("got %v, want the cause", err)
	}
}

func TestWatchReportsChangesOnly(t *testing.T) {
	// The address cannot be parsed, so every try fails without a socket and virtual time can pass.
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var well, ill atomic.Int32
		c := Checks{List: []release.Health{{HTTP: "http://127.0.0.1:bad/", Interval: release.Duration(time.Second), Failures: 2}}}
		go c.Watch(ctx, func(err error) {
			if err == nil {
				well.Add(1)
			} else {
				ill.Add(1)
			}
		})
		time.Sleep(calm + 500*time.Millisecond)
		synctest.Wait()
		if n := ill.Load() + well.Load(); n != 0 {
			t.Errorf("%d reports after one failure", n)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if ill.Load() != 1 || well.Load() != 0 {
			t.Errorf("%d reports of ill health and %d of recovery, want 1 and 0", ill.Load(), well.Load())
		}
		cancel()
		synctest.Wait()
	})
}

func TestWatchReportsRecovery(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	defer srv.Close()
	h := quick(release.Health{HTTP: srv.URL, Failures: 2})
	out := make(chan verdict)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go Checks{}.watch(ctx, 0, h, out)
	if v := <-out; v.err == nil {
		t.Fatal("healthy while down")
	}
	down.Store(false)
	if v := <-out; v.err != nil {
		t.Fatalf("still unhealthy: %v", v.err)
	}
}
