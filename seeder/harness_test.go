package seeder

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/memstore"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/release"
	"github.com/murmuration/murmuration/rollout"
)

const (
	adminPassword = "correct horse battery"
	testService   = "web"
	patience      = 20 * time.Second // how long a test waits for what must happen
)

// world is one store with its fleet: seeders, agents and an admin.
type world struct {
	tb     testing.TB
	store  *memstore.Store
	ca     *identity.CA
	token  string
	agents map[string]*fakeAgent
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	store := memstore.New()
	tb.Cleanup(func() { store.Close() })
	ca, err := identity.NewCA("test fleet", time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	w := &world{tb: tb, store: store, ca: ca, agents: map[string]*fakeAgent{}}
	auth := w.authority()
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
	if err := auth.Init(w.tb.Context()); err != nil {
		w.tb.Fatal(err)
	}
	return auth
}

// running is a seeder under test. kill ends it the hard way, as far as one process can.
type running struct {
	*Seeder
	kill func()
}

// seeder starts one more seeder over the world's store.
func (w *world) seeder(id string, configure ...func(*Config)) *running {
	w.tb.Helper()
	cfg := Config{
		Store: w.store, Authority: w.authority(), ID: id, Dir: w.tb.TempDir(), Log: testLog(w.tb),
		DrainTimeout: 100 * time.Millisecond, LostAfter: 300 * time.Millisecond,
	}
	for _, f := range configure {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		w.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	authDone := make(chan struct{})
	go func() { defer close(authDone); _ = cfg.Authority.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.tb.Errorf("seeder %s: %v", id, err)
		}
		<-authDone
	}
	w.tb.Cleanup(stop)
	<-s.Ready()
	return &running{Seeder: s, kill: stop}
}

// testLog logs into the test's output, only when -v asks for it.
func testLog(tb testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// api is the admin's client of one seeder.
type api struct {
	murmurv1connect.RolloutServiceClient
	services murmurv1connect.ServiceServiceClient
	fleet    murmurv1connect.FleetServiceClient
}

func (w *world) api(s *running) *api {
	client := w.client(nil)
	bearer := connect.WithInterceptors(bearer(w.token))
	base := "https://" + s.Addr()
	return &api{
		RolloutServiceClient: murmurv1connect.NewRolloutServiceClient(client, base, bearer),
		services:             murmurv1connect.NewServiceServiceClient(client, base, bearer),
		fleet:                murmurv1connect.NewFleetServiceClient(client, base, bearer),
	}
}

// client is an HTTP client that trusts the fleet and shows a certificate, if any.
func (w *world) client(cert *tls.Certificate) *http.Client {
	var show identity.CertFunc
	if cert != nil {
		show = func() (*tls.Certificate, error) { return cert, nil }
	}
	transport := &http.Transport{
		TLSClientConfig: identity.SeederClientConfig(w.ca.Pool(), show, ""), ForceAttemptHTTP2: true,
	}
	w.tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// bearer adds a token to every request.
func bearer(token string) connect.Interceptor { return bearerInterceptor(token) }

type bearerInterceptor string

func (b bearerInterceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		req.Header().Set("Authorization", "Bearer "+string(b))
		return next(ctx, req)
	}
}

func (b bearerInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		conn.RequestHeader().Set("Authorization", "Bearer "+string(b))
		return conn
	}
}

func (b bearerInterceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// certificate makes a host's certificate.
func (w *world) certificate(host string) *tls.Certificate {
	w.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.tb.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		w.tb.Fatal(err)
	}
	der, err := w.ca.IssueHost(csr, host)
	if err != nil {
		w.tb.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// host puts a host into the fleet.
func (w *world) host(id, rack string) {
	w.tb.Helper()
	form := record.Host{
		ID: id, Name: "name-" + id, Labels: map[string]string{"rack": rack}, JoinedAt: time.Now(), AnnounceKey: "key-" + id,
	}
	if _, err := record.Create(w.tb.Context(), w.store, hostKey(id), form); err != nil {
		w.tb.Fatal(err)
	}
}

// releaseID makes ids that are UUIDv7 and easy to read.
func releaseID(n int) string { return fmt.Sprintf("019a0000-0000-7000-8000-%012d", n) }

// release publishes release n of the test service, as the depot would have.
func (w *world) release(n int, strategy release.Strategy) string {
	w.tb.Helper()
	digest := release.DigestOf([]byte(releaseID(n)))
	m := release.Manifest{
		Version: release.ManifestVersion, Service: testService, ID: releaseID(n), Commit: fmt.Sprintf("%040d", n),
		Author: "dev", Subject: "change", CreatedAt: time.Now().UTC().Truncate(time.Second),
		Artifact: release.Artifact{
			Digest: digest, Size: 100, RawSize: 100, RawDigest: digest, Files: 1, Chunks: 1, IndexOffset: 80, IndexSize: 20,
			IndexDigest: digest,
		},
		Recipe: release.Recipe{
			Service: testService, Build: release.Build{Output: "."}, Run: release.Run{Kind: release.RunFiles}, Strategy: strategy,
		}.WithDefaults(),
	}
	body, err := m.Encode()
	if err != nil {
		w.tb.Fatal(err)
	}
	form := record.Release{
		Manifest: body, Envelope: []byte("{}"), Info: []byte("d4:name3:weble"), Infohash: fmt.Sprintf("%040x", n),
		PublishedAt: time.Now(),
	}
	key := record.Key{Kind: record.KindRelease, ID: testService + "/" + m.ID}
	if _, err := record.Create(w.tb.Context(), w.store, key, form); err != nil {
		w.tb.Fatal(err)
	}
	return m.ID
}

// quick is a strategy that waits for nothing but its hosts: one host, then all.
func quick() release.Strategy {
	return release.Strategy{
		Steps:          []release.Step{{Hosts: 1}, {Dial: dial.Full}},
		MaxUnavailable: "100%", MaxUnavailablePerRack: "100%", AcrossRacks: true, AcrossDCs: true,
		MinHealthy: release.Duration(time.Millisecond), DCBake: release.Duration(time.Millisecond),
		FirstDCBake: release.Duration(time.Millisecond),
	}
}

// manual is quick, but waits for a promote after the first host.
func manual() release.Strategy {
	s := quick()
	s.Steps[0].Manual = true
	return s
}

// stable makes a release the service's stable one without a rollout.
func (w *world) stable(id string) {
	w.tb.Helper()
	_, err := record.Upsert(w.tb.Context(), w.store, record.Key{Kind: record.KindService, ID: testService}, func(s *record.Service) error {
		s.Name = testService
		setStable(s, id)
		return nil
	})
	if err != nil {
		w.tb.Fatal(err)
	}
}

func (w *world) service() record.Service {
	w.tb.Helper()
	svc, _, err := record.Get[record.Service](w.tb.Context(), w.store, record.Key{Kind: record.KindService, ID: testService})
	if err != nil {
		w.tb.Fatal(err)
	}
	return svc
}

func (w *world) rollout(id string) rollout.State {
	w.tb.Helper()
	rec, _, err := record.Get[record.Rollout](w.tb.Context(), w.store, record.Key{Kind: record.KindRollout, ID: testService + "/" + id})
	if err != nil {
		w.tb.Fatal(err)
	}
	return rec.State
}

// awaitPhase waits until the rollout is in one of the phases.
func (w *world) awaitPhase(id string, phases ...rollout.Phase) rollout.State {
	w.tb.Helper()
	var last rollout.State
	ok := w.await(func() bool {
		last = w.rollout(id)
		return slices.Contains(phases, last.Phase)
	})
	if !ok {
		w.tb.Fatalf("rollout is %s (%s), want %v; hosts %+v; timeline %+v", last.Phase, last.Reason, phases, last.Hosts, last.Timeline)
	}
	return last
}

// await asks again and again, as nothing tells a test about the inside of another process.
func (w *world) await(ok func() bool) bool {
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			return ok()
		}
	}
	return true
}

func (w *world) must(ok func() bool, what string) {
	w.tb.Helper()
	if !w.await(ok) {
		w.tb.Fatalf("in vain waited for: %s", what)
	}
}

// start begins a rollout.
func (a *api) start(tb testing.TB, releaseRef string) string {
	tb.Helper()
	resp, err := a.StartRollout(tb.Context(), connect.NewRequest(&murmurv1.StartRolloutRequest{
		Service: testService, Release: releaseRef, Reason: "test",
	}))
	if err != nil {
		tb.Fatal(err)
	}
	return resp.Msg.Rollout.Id
}

func (a *api) steer(tb testing.TB, id string, s murmurv1.Steer) {
	tb.Helper()
	_, err := a.SteerRollout(tb.Context(), connect.NewRequest(&murmurv1.SteerRolloutRequest{
		Service: testService, Id: id, Steer: s, Reason: "test",
	}))
	if err != nil {
		tb.Fatal(err)
	}
}
