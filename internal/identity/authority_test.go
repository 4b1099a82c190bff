package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/memstore"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

const password = "correct horse battery"

// fixture is an authority over a memory store, with an admin "root".
type fixture struct {
	*Authority
	store *memstore.Store
	log   *bytes.Buffer
}

// syncWriter lets several goroutines log into one buffer.
type syncWriter struct {
	mu sync.Mutex
	b  *bytes.Buffer
}

func (w *syncWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	store := memstore.New()
	t.Cleanup(func() { store.Close() })
	return fixtureOver(t, store, newTestCA(t))
}

func fixtureOver(t testing.TB, store *memstore.Store, ca *CA) *fixture {
	t.Helper()
	log := &bytes.Buffer{}
	a, err := New(Config{Store: store, CA: ca, Log: slog.New(slog.NewTextHandler(&syncWriter{b: log}, nil)),
		Seeders: []string{"https://seeder.example:7700"}, Password: PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Init(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Bootstrap(context.Background(), "root", password); err != nil {
		t.Fatal(err)
	}
	return &fixture{a, store, log}
}

// as is a context in which a user of this role acts, who is made for it.
func (f *fixture) as(t testing.TB, role Role) context.Context {
	t.Helper()
	name := "user-" + role.String()
	root := WithCaller(context.Background(), Caller{Name: "root", User: "root", Role: Admin})
	if _, err := f.GetUser(root, name); errors.Is(err, record.ErrNotFound) {
		if _, err := f.PutUser(root, record.User{Name: name, Role: role.String()}, password); err != nil {
			t.Fatal(err)
		}
	}
	return WithCaller(context.Background(), Caller{Name: name, User: name, Role: role})
}

// run keeps the authority up to date until the test ends.
func (f *fixture) run(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// by authenticates a bearer.
func (f *fixture) by(token string) (Caller, error) {
	return f.authenticate(context.Background(), origin{from: "192.0.2.1"}, http.Header{"Authorization": {"Bearer " + token}})
}

// from is a context with a request's origin.
func from(address string) context.Context {
	return context.WithValue(context.Background(), originKey{}, origin{from: address})
}

func TestBootstrapOnce(t *testing.T) {
	f := newFixture(t)
	if made, err := f.Bootstrap(t.Context(), "second", password); made || err != nil {
		t.Errorf("Bootstrap with users there = %t, %v", made, err)
	}
}

func TestInitRefusesAnotherCA(t *testing.T) {
	f := newFixture(t)
	a, err := New(Config{Store: f.store, CA: newTestCA(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Init(t.Context()); err == nil || !strings.Contains(err.Error(), "CA") {
		t.Errorf("Init with another CA: %v", err)
	}
}

func TestUsersMayChangeTheirOwnPasswordOnly(t *testing.T) {
	f := newFixture(t)
	dev := f.as(t, Developer)
	if _, err := f.PutUser(dev, record.User{Name: "user-developer", Role: "developer", Email: "d@example.org"}, "a new password"); err != nil {
		t.Errorf("own password: %v", err)
	}
	for name, u := range map[string]record.User{
		"own role":     {Name: "user-developer", Role: "admin"},
		"someone else": {Name: "root", Role: "admin"},
		"a new user":   {Name: "mallory", Role: "viewer"},
	} {
		if _, err := f.PutUser(dev, u, "a new password"); !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: %v, want ErrForbidden", name, err)
		}
	}
	token := WithCaller(t.Context(), Caller{Name: "user-developer/x", User: "user-developer", Role: Developer, Token: "x"})
	if _, err := f.PutUser(token, record.User{Name: "user-developer", Role: "developer"}, "a new password"); !errors.Is(err, ErrForbidden) {
		t.Errorf("a token changed its owner's password: %v", err)
	}
}

func TestTheLastAdminStays(t *testing.T) {
	f := newFixture(t)
	root := WithCaller(t.Context(), Caller{Name: "root", User: "root", Role: Admin})
	if err := f.RemoveUser(root, "root"); !wire.Is(err, connect.CodeFailedPrecondition) {
		t.Errorf("removing the last admin: %v", err)
	}
	if _, err := f.PutUser(root, record.User{Name: "root", Role: "viewer"}, ""); !wire.Is(err, connect.CodeFailedPrecondition) {
		t.Errorf("demoting the last admin: %v", err)
	}
	f.as(t, Admin)
	if err := f.RemoveUser(root, "root"); err != nil {
		t.Errorf("removing one of two admins: %v", err)
	}
}

func TestInputIsChecked(t *testing.T) {
	f := newFixture(t)
	root := WithCaller(t.Context(), Caller{Name: "root", User: "root", Role: Admin})
	for name, u := range map[string]record.User{
		"no name": {Role: "viewer"}, "slash": {Name: "a/b", Role: "viewer"}, "dots": {Name: "..", Role: "viewer"},
		"long": {Name: strings.Repeat("x", 65), Role: "viewer"}, "no role": {Name: "a"}, "odd role": {Name: "a", Role: "nobody"},
		"mail with line feed": {Name: "a", Role: "viewer", Email: "a@b\nBcc: c"},
	} {
		if _, err := f.PutUser(root, u, password); !wire.Is(err, connect.CodeInvalidArgument) {
			t.Errorf("%s: %v, want invalid argument", name, err)
		}
	}
	if _, err := f.PutUser(root, record.User{Name: "a", Role: "viewer"}, "short"); !wire.Is(err, connect.CodeInvalidArgument) {
		t.Errorf("a short password: %v", err)
	}
}

func TestStoreDownKeepsKnownCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.run(t)
		token, _, _, err := f.Login(from("192.0.2.1"), "root", password)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		f.store.Fail(func(memstore.Op) error { return record.ErrUnavailable })
		if c, err := f.by(token); err != nil || c.Role != Admin {
			t.Errorf("a known log-in with the store down: %+v, %v", c, err)
		}
		if _, err := f.by("ms1.unknown.AAAA"); !errors.Is(err, record.ErrUnavailable) {
			t.Errorf("an unknown one: %v, want unavailable and not refused", err)
		}
	})
}

func TestRevocationReachesOtherServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := newFixture(t)
		two := fixtureOver(t, one.store, one.ca)
		two.run(t)
		old := hostCert(t, one.ca, "host-a").Leaf
		serial := hostCert(t, one.ca, "host-b").Leaf
		synctest.Wait()
		ops, err := RevokeOps(Peer{KindHost, "host-a"}, "root", "stolen")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := one.Commit(t.Context(), "host.remove", "host/host-a", "stolen", nil, nil, ops...); err != nil {
			t.Fatal(err)
		}
		if err := one.RevokeCertificate(t.Context(), Serial(serial), "leaked"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, f := range []*fixture{one, two} {
			if err := f.Revoked(Peer{KindHost, "host-a"}, old); !errors.Is(err, ErrRevoked) || !strings.Contains(err.Error(), "stolen") {
				t.Errorf("the removed host: %v", err)
			}
			if err := f.Revoked(Peer{KindHost, "host-b"}, serial); !errors.Is(err, ErrRevoked) {
				t.Errorf("the revoked certificate: %v", err)
			}
			if err := f.Revoked(Peer{KindSeeder, "host-a"}, old); err != nil {
				t.Errorf("a seeder of the same id: %v", err)
			}
		}
		time.Sleep(2 * time.Second)
		if err := two.Revoked(Peer{KindHost, "host-a"}, hostCert(t, one.ca, "host-a").Leaf); err != nil {
			t.Errorf("a certificate issued after the removal: %v", err)
		}
		// A server that starts later knows before it runs.
		if err := fixtureOver(t, one.store, one.ca).Revoked(Peer{KindHost, "host-a"}, old); !errors.Is(err, ErrRevoked) {
			t.Errorf("right after Init: %v", err)
		}
	})
}

func TestNoSecretIsStoredOrLogged(t *testing.T) {
	f := newFixture(t)
	session, _, _, err := f.Login(from("192.0.2.1"), "root", password)
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, _ = f.Login(from("192.0.2.1"), "hunter2 hunter2", "x") // the password typed as the name
	_, _, _, _ = f.Login(from("192.0.2.1"), "root", "wrong secret phrase")
	token, _, err := f.CreateToken(f.as(t, Ops), "hook", Ops, 0)
	if err != nil {
		t.Fatal(err)
	}
	join, _, err := f.CreateJoinToken(f.as(t, Ops), 0, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	all.WriteString(f.log.String())
	hashes := 0
	for _, kind := range []record.Kind{record.KindUser, record.KindSession, record.KindToken, record.KindJoin, record.KindAudit, record.KindFleet} {
		items, _, err := f.store.List(t.Context(), kind, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			if kind == record.KindAudit && bytes.Contains(item.Value, []byte("argon2id")) {
				hashes++
			}
			all.Write(item.Value)
		}
	}
	for _, secret := range []string{password, "hunter2", "wrong secret phrase", strings.Split(session, ".")[2], strings.Split(token, ".")[2], strings.Split(join, ".")[2]} {
		if strings.Contains(all.String(), secret) {
			t.Errorf("%q is in the log or the store", secret)
		}
	}
	if hashes > 0 {
		t.Errorf("%d audit records show password hashes", hashes)
	}
}

func TestHashesAreBounded(t *testing.T) {
	h := newHasher(PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1})
	for range hashesAtOnce {
		h.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.check(ctx, h.dummy, password); !errors.Is(err, context.Canceled) {
		t.Errorf("a check beyond the bound did not wait: %v", err)
	}
}

func TestConcurrentCommitsMakeOneChain(t *testing.T) {
	one := newFixture(t)
	two := fixtureOver(t, one.store, one.ca)
	var wg sync.WaitGroup
	var conflicts atomic.Int64
	const each = 40
	for i, f := range []*fixture{one, two, one, two} {
		wg.Go(func() {
			for n := range each {
				k := record.Key{Kind: record.KindService, ID: fmt.Sprintf("s%d-%d", i/2, n)} // two want each key
				_, err := f.Commit(t.Context(), "test.put", k.String(), "", nil, n, record.Put(k, []byte("x"), 0))
				switch {
				case errors.Is(err, record.ErrConflict):
					conflicts.Add(1)
				case err != nil:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := conflicts.Load(); got != 2*each {
		t.Errorf("%d commits conflicted, want exactly one of each pair: %d", got, 2*each)
	}
	r, err := one.VerifyAudit(t.Context())
	if err != nil || r.FirstBad != 0 {
		t.Errorf("VerifyAudit = %+v, %v", r, err)
	}
	if want := int64(2*each) + 1; r.Records != want { // and the first admin
		t.Errorf("%d audit records, want %d", r.Records, want)
	}
}

func TestAuthorizePlainRoutes(t *testing.T) {
	f := newFixture(t)
	token, _, err := f.CreateToken(f.as(t, Developer), "hook", Developer, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		header string
		role   Role
		want   int
	}{
		{"nobody", "", Viewer, http.StatusUnauthorized},
		{"bad token", "Bearer mt1.a.b", Viewer, http.StatusUnauthorized},
		{"basic", "Basic dTpw", Viewer, http.StatusUnauthorized},
		{"enough", "Bearer " + token, Developer, http.StatusOK},
		{"not enough", "Bearer " + token, Ops, http.StatusForbidden},
		{"hosts only", "Bearer " + token, Nobody, http.StatusForbidden},
	} {
		r := httptest.NewRequest(http.MethodGet, "/v1/artifacts/x", nil)
		r.Header.Set("Authorization", tc.header)
		c, err := f.Authorize(r, tc.role, KindHost)
		got := http.StatusOK
		if err != nil {
			got = HTTPStatus(err)
		}
		if got != tc.want {
			t.Errorf("%s: %d (%+v, %v), want %d", tc.name, got, c, err, tc.want)
		}
	}
}
