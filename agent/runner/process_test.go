package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/murmuration/murmuration/release"
)

// TestMain lets the test binary be the service under test, and an agent that dies.
func TestMain(m *testing.M) {
	switch os.Getenv("RUNNER_TEST_ROLE") {
	case "service":
		os.Exit(service())
	case "agent":
		os.Exit(dyingAgent())
	}
	os.Exit(m.Run())
}

// service answers on the first passed socket with its release and process id, and drains on SIGTERM.
func service() int {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) || os.Getenv("LISTEN_FDS") != "1" || os.Getenv("LISTEN_FDNAMES") != "main" {
		fmt.Println("wrong LISTEN_ variables:", os.Environ())
		return 9
	}
	if os.Getenv("DIE_AT_START") != "" {
		fmt.Println("the configuration is broken")
		return 7
	}
	l, err := net.FileListener(os.NewFile(3, "main"))
	if err != nil {
		fmt.Println(err)
		return 8
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var open sync.WaitGroup
	srv := http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/crash" {
				os.Exit(5)
			}
			fmt.Fprintf(w, "%s %d", os.Getenv("MURMUR_RELEASE"), os.Getpid())
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed:
				open.Done()
			}
		},
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	<-ctx.Done()
	if os.Getenv("IGNORE_TERM") != "" {
		select {}
	}
	// Server.Shutdown alone drops a request it is just reading (net/http: conn.serve looks at shuttingDown after
	// readRequest). So: accept no more, answer what was accepted, then end.
	_ = l.Close()
	<-served
	srv.SetKeepAlivesEnabled(false)
	open.Wait()
	return 0
}

func newRunner(t testing.TB, dir string, tune Tuning) *Process {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	p := NewProcess(root, slog.New(slog.DiscardHandler), tune, func() {})
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return p
}

func spec(t testing.TB, dir, rel string, env ...string) Spec {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "releases", rel)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return Spec{
		Service: "shop", Release: rel, Dir: folder,
		Run:   release.Run{Kind: release.RunProcess, Command: self, StopTimeout: release.Duration(20 * time.Second)},
		Ports: []release.Port{{Name: "main", Listen: "127.0.0.1:0"}},
		Env:   append([]string{"RUNNER_TEST_ROLE=service", "GORACE=atexit_sleep_ms=0", "MURMUR_RELEASE=" + rel, "MURMUR_ROOT=" + dir, "MURMUR_SERVICE=shop", "PATH=" + os.Getenv("PATH")}, env...),
	}
}

func ask(t testing.TB, addr string) (rel string, pid int) {
	t.Helper()
	body, err := get(addr, "/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(body, "%s %d", &rel, &pid); err != nil {
		t.Fatalf("answer %q: %v", body, err)
	}
	return rel, pid
}

func get(addr, path string) (string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	resp, err := client.Get("http://" + addr + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestRestartUnderLoadFailsNoRequest(t *testing.T) {
	dir := t.TempDir()
	p := newRunner(t, dir, Tuning{Settle: 50 * time.Millisecond})
	if err := p.Start(t.Context(), spec(t, dir, "r1")); err != nil {
		t.Fatal(err)
	}
	addr := p.Status().Addrs["main"]
	var asked, failed atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				asked.Add(1)
				if _, err := get(addr, "/"); err != nil {
					failed.Add(1)
					t.Log(err)
				}
			}
		})
	}
	for i := range 5 {
		if err := p.Start(t.Context(), spec(t, dir, fmt.Sprintf("r%d", i+2))); err != nil {
			t.Errorf("restart: %v", err)
		}
	}
	close(stop)
	wg.Wait()
	if failed.Load() != 0 || asked.Load() < 20 {
		t.Errorf("%d of %d requests failed over 5 restarts", failed.Load(), asked.Load())
	}
	if rel, _ := ask(t, addr); rel != "r6" {
		t.Errorf("%s answers, want r6", rel)
	}
}

func TestReleaseThatDiesAtStartLeavesTheOldOneServing(t *testing.T) {
	dir := t.TempDir()
	p := newRunner(t, dir, Tuning{Settle: 10 * time.Second})
	p.tune.Settle = 100 * time.Millisecond
	if err := p.Start(t.Context(), spec(t, dir, "good")); err != nil {
		t.Fatal(err)
	}
	addr := p.Status().Addrs["main"]
	_, before := ask(t, addr)
	p.tune.Settle = 10 * time.Second
	err := p.Start(t.Context(), spec(t, dir, "bad", "DIE_AT_START=1"))
	if !errors.Is(err, ErrStart) || !strings.Contains(err.Error(), "status 7") || !strings.Contains(err.Error(), "the configuration is broken") {
		t.Errorf("got %v, want status 7 and the log", err)
	}
	if rel, pid := ask(t, addr); rel != "good" || pid != before {
		t.Errorf("%s (%d) answers, want good (%d)", rel, pid, before)
	}
	if s := p.Status(); !s.Running || s.Release != "good" {
		t.Errorf("status %+v", s)
	}
}

func TestCrashIsRestartedAndALoopIsReported(t *testing.T) {
	dir := t.TempDir()
	changed := make(chan struct{}, 100)
	p := newRunner(t, dir, Tuning{Settle: 50 * time.Millisecond, Backoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond, MaxCrashes: 3})
	p.changed = func() { changed <- struct{}{} }
	if err := p.Start(t.Context(), spec(t, dir, "r1")); err != nil {
		t.Fatal(err)
	}
	addr := p.Status().Addrs["main"]
	for range 3 {
		if _, err := get(addr, "/crash"); err == nil {
			t.Fatal("the service did not crash")
		}
		<-changed // crashed
		<-changed // restarted
	}
	s := p.Status()
	if !s.Looping || s.Restarts != 3 || !s.Running || !strings.Contains(s.Detail, "crash loop") || !strings.Contains(s.Detail, "status 5") {
		t.Errorf("status %+v", s)
	}
	if _, pid := ask(t, addr); pid != s.PID {
		t.Errorf("process %d answers, status says %d", pid, s.PID)
	}
}

func TestStopKillsWhatIgnoresSIGTERM(t *testing.T) {
	dir := t.TempDir()
	p := newRunner(t, dir, Tuning{Settle: 100 * time.Millisecond})
	s := spec(t, dir, "r1", "IGNORE_TERM=1")
	s.Run.StopTimeout = release.Duration(50 * time.Millisecond)
	if err := p.Start(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	addr := p.Status().Addrs["main"]
	ask(t, addr)
	cur := p.current()
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if cur.alive() || !strings.Contains(cur.how, "killed") {
		t.Errorf("process ended as %q", cur.how)
	}
	if _, err := get(addr, "/"); err == nil {
		t.Error("a stopped service still accepts")
	}
}

func TestMissingCommandIsRefusedBeforeAnythingStops(t *testing.T) {
	dir := t.TempDir()
	p := newRunner(t, dir, Tuning{Settle: 50 * time.Millisecond})
	if err := p.Start(t.Context(), spec(t, dir, "r1")); err != nil {
		t.Fatal(err)
	}
	_, before := ask(t, p.Status().Addrs["main"])
	for _, command := range []string{"bin/server", "no-such-word-anywhere", "", "../../../bin/true", "/nonexistent/x", "."} {
		bad := spec(t, dir, "r2")
		bad.Run.Command = command
		if err := p.Start(t.Context(), bad); !errors.Is(err, ErrStart) {
			t.Errorf("command %q: %v", command, err)
		}
	}
	if _, after := ask(t, p.Status().Addrs["main"]); after != before {
		t.Errorf("process changed from %d to %d", before, after)
	}
}

func TestWithoutPortsTheOldOneEndsFirst(t *testing.T) {
	dir := t.TempDir()
	p := newRunner(t, dir, Tuning{Settle: 20 * time.Millisecond})
	mk := func(rel string) Spec {
		s := spec(t, dir, rel)
		s.Run.Command, s.Run.Args, s.Ports = "/bin/sh", []string{"-c", `mkdir ../../busy || exit 3; trap 'rmdir ../../busy; exit' TERM; while :; do sleep 0.01; done`}, nil
		return s
	}
	for _, rel := range []string{"r1", "r2"} { // two at once would find the folder and exit
		if err := p.Start(t.Context(), mk(rel)); err != nil {
			t.Fatal(err)
		}
	}
	if s := p.Status(); !s.Running || s.Release != "r2" || s.Restarts != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestLogIsBounded(t *testing.T) {
	dir := t.TempDir()
	p := newRunner(t, dir, Tuning{MaxLog: 1000})
	out, err := p.openLog()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for i := range 300 {
		fmt.Fprintf(out, "line %06d\n", i)
	}
	if err := p.rotate(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(out, "after")
	older, err := p.root.ReadFile(logOld)
	if err != nil || len(older) != 1000 || !strings.HasSuffix(string(older), "line 000299\n") {
		t.Errorf("older log: %d bytes, %v", len(older), err)
	}
	if now, err := p.root.ReadFile(logFile); string(now) != "after\n" || err != nil {
		t.Errorf("log %q, %v", now, err)
	}
	if got := p.logTail(); got != "after" {
		t.Errorf("tail %q", got)
	}
}
