package agent

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/murmuration/murmuration/agent/runner"
	"github.com/murmuration/murmuration/internal/artifact"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/release"
)

// TestMain lets the test binary be a service, and an agent that is killed.
func TestMain(m *testing.M) {
	switch os.Getenv("AGENT_TEST_ROLE") {
	case "service":
		os.Exit(testService())
	case "agent":
		os.Exit(mortalAgent())
	}
	os.Exit(m.Run())
}

// testService answers with the id in its folder's release.txt on the socket it was passed.
func testService() int {
	id, err := os.ReadFile("release.txt")
	if err != nil {
		fmt.Println(err)
		return 3
	}
	l, err := net.FileListener(os.NewFile(3, "main"))
	if err != nil {
		fmt.Println(err)
		return 4
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	srv := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/metrics":
			fmt.Fprintf(w, "# TYPE shop_requests_total counter\nshop_requests_total{code=\"200\"} 7\n")
		case r.URL.Path == "/health" && os.Getenv("SICK") != "":
			http.Error(w, "I am sick", http.StatusInternalServerError)
		default:
			_, _ = w.Write(id)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	<-ctx.Done()
	_ = srv.Close()
	return 0
}

// rel is a packed release, as a seeder would offer it.
type rel struct {
	id   string
	ref  *murmurv1.ReleaseRef
	path string // of the artifact
	m    release.Manifest
}

// infohash is what the swarm knows it by.
func (r rel) infohash() string {
	sum := sha1.Sum(r.ref.TorrentInfo)
	return hex.EncodeToString(sum[:])
}

// shop packs a release of service "shop"; edit changes its recipe.
func shop(t testing.TB, dir string, edit func(*release.Recipe)) rel {
	t.Helper()
	id := must(uuid.NewV7())
	src := filepath.Join(t.TempDir(), "tree")
	check(t, os.MkdirAll(filepath.Join(src, "sub"), 0o755))
	check(t, os.WriteFile(filepath.Join(src, "release.txt"), []byte(id.String()), 0o644))
	check(t, os.WriteFile(filepath.Join(src, "sub", "same.txt"), bytes.Repeat([]byte("the same in every release\n"), 100), 0o600))

	path := filepath.Join(dir, id.String()+".artifact")
	f := must(os.Create(path))
	defer f.Close()
	a, _, err := artifact.Pack(t.Context(), src, f, artifact.PackOptions{})
	check(t, err)
	m := release.Manifest{
		Version: release.ManifestVersion, Service: "shop", ID: id.String(), Commit: strings.Repeat("a", 40),
		Ref: "refs/heads/main", Repo: "shop", Author: "a@example.org", Subject: "s", CreatedAt: time.Now().UTC(), Artifact: a,
		Recipe: release.Recipe{
			Service: "shop",
			Run: release.Run{
				Kind: release.RunProcess, Command: must(os.Executable()), StopTimeout: release.Duration(10 * time.Second),
				Env: map[string]string{"AGENT_TEST_ROLE": "service", "GORACE": "atexit_sleep_ms=0"},
			},
			Ports: []release.Port{{Name: "main", Listen: "127.0.0.1:0"}},
			Health: []release.Health{{
				HTTP: "/health", Interval: release.Duration(5 * time.Millisecond), Timeout: release.Duration(5 * time.Second),
				Successes: 2, Deadline: release.Duration(20 * time.Second),
			}},
		}.WithDefaults(),
	}
	if edit != nil {
		edit(&m.Recipe)
	}
	b, err := m.Encode()
	check(t, err)
	return rel{id: id.String(), path: path, m: m, ref: &murmurv1.ReleaseRef{
		Id: id.String(), Manifest: b, Envelope: []byte("signed"), TorrentInfo: []byte("info of " + id.String()),
	}}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fakeSwarm copies artifacts from a folder, where they lie by the sum of their info.
type fakeSwarm struct {
	mu      sync.Mutex
	files   map[string]string
	peers   map[string][]Peer
	dropped []string
	fetches int
	hold    chan struct{} // when set, a fetch waits for it
}

func newFakeSwarm(rels ...rel) *fakeSwarm {
	s := &fakeSwarm{files: map[string]string{}, peers: map[string][]Peer{}}
	for _, r := range rels {
		s.files[r.infohash()] = r.path
	}
	return s
}

func (s *fakeSwarm) Fetch(ctx context.Context, a Artifact, progress func(Progress)) error {
	s.mu.Lock()
	path, hold := s.files[a.Infohash], s.hold
	s.fetches++
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("nobody has it: %w", err)
	}
	if err := os.WriteFile(a.Path, b, 0o600); err != nil {
		return err
	}
	progress(Progress{Done: a.Size, Total: a.Size, FromPeers: a.Size})
	return nil
}

func (s *fakeSwarm) Seed(context.Context, Artifact) error { return nil }

func (s *fakeSwarm) AddPeers(infohash string, peers []Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers[infohash] = append(s.peers[infohash], peers...)
}

func (s *fakeSwarm) Drop(infohash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped = append(s.dropped, infohash)
}

// fakeTrust accepts what is "signed", and says so of nothing else.
type fakeTrust struct{}

var errWrongSigner = errors.New("signed by nobody this fleet knows")

func (fakeTrust) VerifyRelease(_ release.Manifest, _, envelope []byte) (string, error) {
	if string(envelope) != "signed" {
		return "", errWrongSigner
	}
	return "key-1", nil
}

func testConfig(root string, s Swarm) Config {
	return Config{
		Root: root, HostID: "host-7", Name: "seven", Version: "test", Swarm: s, Verifier: fakeTrust{}, MinFree: 1,
		Logger: slog.New(slog.DiscardHandler),
		Tuning: runner.Tuning{Settle: 20 * time.Millisecond, Backoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond, MaxCrashes: 3},
	}
}

// host is an agent under test, with its loop running.
type host struct {
	t     testing.TB
	cfg   Config
	agent *Agent
	stop  func()
}

// boot starts an agent on the configuration's folder. Its services are stopped when the test ends.
func boot(t testing.TB, cfg Config) *host {
	t.Helper()
	a, err := New(cfg)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	h := &host{t: t, cfg: cfg, agent: a}
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { h.stop(); killServices(t, cfg.Root) })
	return h
}

// killServices ends what agents of this folder left running.
func killServices(t testing.TB, root string) {
	t.Helper()
	r, err := os.OpenRoot(filepath.Join(root, "shop"))
	if err != nil {
		return // the service was never made
	}
	defer r.Close()
	p := runner.NewProcess(r, slog.New(slog.DiscardHandler), runner.Tuning{}, func() {})
	spec := runner.Spec{Service: "shop", Env: []string{"MURMUR_ROOT=" + root}}
	if _, err := p.Adopt(context.Background(), spec); err != nil {
		t.Errorf("kill services: %v", err)
	}
}

// tell hands the agent an order as a session would.
func (h *host) tell(d *murmurv1.Desired) {
	h.t.Helper()
	check(h.t, h.agent.ask(h.t.Context(), func(l *loop) { l.told(d) }))
}

// report is the whole truth about the service as the seeder would hear it.
func (h *host) report() *murmurv1.ServiceReport {
	h.t.Helper()
	var r *murmurv1.ServiceReport
	check(h.t, h.agent.ask(h.t.Context(), func(l *loop) {
		if l.units["shop"] != nil {
			r = l.serviceReport("shop")
		}
	}))
	return r
}

// await returns the first report for which ok is true.
func (h *host) await(what string, ok func(*murmurv1.ServiceReport) bool) *murmurv1.ServiceReport {
	h.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		r := h.report()
		if ok(r) {
			return r
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("never: %s; the last report: %v", what, r)
		}
	}
}

func (h *host) awaitActive(r rel) *murmurv1.ServiceReport {
	h.t.Helper()
	return h.await("active "+r.id, func(s *murmurv1.ServiceReport) bool {
		return s.GetStatus().GetActive() == r.id && s.GetOutcome() == murmurv1.Outcome_OUTCOME_HEALTHY && s.GetStatus().GetState() == StateRunning
	})
}

func (h *host) awaitFailed(r rel) *murmurv1.ServiceReport {
	h.t.Helper()
	return h.await("failed "+r.id, func(s *murmurv1.ServiceReport) bool {
		return s.GetAttempted() == r.id && s.GetOutcome() == murmurv1.Outcome_OUTCOME_FAILED
	})
}

// order makes a Desired for service shop.
func order(revision int64, active rel, stage ...rel) *murmurv1.Desired {
	t := &murmurv1.ServiceTarget{Service: "shop", Active: active.id}
	for _, r := range stage {
		t.Stage = append(t.Stage, r.ref)
	}
	if active.ref != nil {
		t.Stage = append(t.Stage, active.ref)
	}
	return &murmurv1.Desired{Order: &murmurv1.Order{Term: 1, Revision: revision}, Services: []*murmurv1.ServiceTarget{t}}
}

// answers asks the service where it listens, and returns "" when nobody answers.
func answers(root string) string {
	r, err := os.OpenRoot(filepath.Join(root, "shop"))
	if err != nil {
		return ""
	}
	defer r.Close()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + runner.Found(r).Addrs["main"])
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(b)
}
