package identity

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/internal/memstore"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

func (f *fixture) joinToken(t testing.TB, labels map[string]string, name string) string {
	t.Helper()
	token, _, err := f.CreateJoinToken(f.as(t, Ops), 0, labels, name)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (f *fixture) host(t testing.TB, id string) record.Host {
	t.Helper()
	h, _, err := load[record.Host](context.Background(), f.store, hostKey(id))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestJoin(t *testing.T) {
	f := newFixture(t)
	csr, _ := newCSR(t)
	token := f.joinToken(t, map[string]string{"rack": "r1"}, "")
	j, err := f.Join(from("192.0.2.7"), token, "web-1", map[string]string{"rack": "r9", "role": "web"}, csr)
	if err != nil {
		t.Fatal(err)
	}
	h := f.host(t, j.HostID)
	if diff := cmp.Diff(map[string]string{"rack": "r1", "role": "web"}, h.Labels); diff != "" {
		t.Errorf("labels; the token's win: %s", diff)
	}
	if h.Name != "web-1" || h.JoinedAt.IsZero() || len(h.AnnounceKey) < 20 || h.Declared {
		t.Errorf("host: %+v", h)
	}
	if len(j.Trust) == 0 || len(j.Seeders) != 1 {
		t.Errorf("answer: %d bytes of trust, seeders %v", len(j.Trust), j.Seeders)
	}
	last, err := f.ListAudit(t.Context(), 1, 0, "")
	if err != nil || last[0].What != "host.join" || last[0].From != "192.0.2.7" || strings.Contains(last[0].After, h.AnnounceKey) {
		t.Errorf("audit: %+v, %v", last, err)
	}
}

func TestJoinTokenTwice(t *testing.T) {
	f := newFixture(t)
	token := f.joinToken(t, nil, "")
	first, _ := newCSR(t)
	second, _ := newCSR(t)
	j, err := f.Join(from("192.0.2.7"), token, "web-1", nil, first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Join(from("192.0.2.8"), token, "web-2", nil, second); !errors.Is(err, ErrTokenUsed) {
		t.Errorf("the second host: %v, want ErrTokenUsed", err)
	}
	last, err := f.ListAudit(t.Context(), 1, 0, "join/")
	if err != nil || len(last) != 1 || last[0].What != "join.refused" || last[0].From != "192.0.2.8" || !strings.Contains(last[0].Why, "used already") {
		t.Errorf("audit: %+v, %v", last, err)
	}
	again, err := f.Join(from("192.0.2.7"), token, "web-1", nil, first)
	if err != nil || again.HostID != j.HostID {
		t.Errorf("the same key again, for a lost answer: %q, %v; want host %q", again.HostID, err, j.HostID)
	}
}

func TestJoinRace(t *testing.T) {
	f := newFixture(t)
	two := fixtureOver(t, f.store, f.ca)
	token := f.joinToken(t, nil, "")
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		csr, _ := newCSR(t)
		server := []*fixture{f, two}[i%2]
		wg.Go(func() {
			_, errs[i] = server.Join(from("192.0.2.7"), token, string(rune('a'+i)), nil, csr)
		})
	}
	wg.Wait()
	joined := 0
	for _, err := range errs {
		switch {
		case err == nil:
			joined++
		case !errors.Is(err, ErrTokenUsed):
			t.Errorf("a loser got %v, want ErrTokenUsed", err)
		}
	}
	hosts, _, err := f.store.List(t.Context(), record.KindHost, "")
	if err != nil || joined != 1 || len(hosts) != 1 {
		t.Errorf("%d joined and %d hosts exist, %v; want one", joined, len(hosts), err)
	}
}

func TestJoinIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		csr, _ := newCSR(t)
		named, open := f.joinToken(t, nil, "web-1"), f.joinToken(t, nil, "")
		parsed, err := ParseJoinToken(open)
		if err != nil {
			t.Fatal(err)
		}
		wrong := parsed
		wrong.Secret = strings.Repeat("A", 26)
		join := func(token, name string, csr []byte) error {
			_, err := f.Join(from("192.0.2.7"), token, name, nil, csr)
			return err
		}
		if err := join(named, "web-2", csr); !wire.Is(err, connect.CodePermissionDenied) {
			t.Errorf("another name than the token's: %v", err)
		}
		if err := join(wrong.String(), "web-1", csr); !errors.Is(err, ErrTokenUnknown) {
			t.Errorf("a wrong secret: %v", err)
		}
		if err := join(open, "web-1", nil); !errors.Is(err, ErrBadRequest) {
			t.Errorf("no certificate request: %v", err)
		}
		if err := join(open, "", csr); !wire.Is(err, connect.CodeInvalidArgument) {
			t.Errorf("no name: %v", err)
		}
		time.Sleep(DefaultJoinTTL + time.Second)
		if err := join(open, "web-1", csr); !errors.Is(err, ErrTokenExpired) {
			t.Errorf("an expired token: %v", err)
		}
		for range 40 {
			err = join(wrong.String(), "web-1", csr)
		}
		if !errors.Is(err, ErrTooManyTries) {
			t.Errorf("guessing secrets: %v, want ErrTooManyTries", err)
		}
	})
}

func TestJoinUnderADeclaredName(t *testing.T) {
	f := newFixture(t)
	op, err := put(hostKey("declared-1"), record.Host{ID: "declared-1", Name: "web-1", Labels: map[string]string{"rack": "r3"}, Declared: true, Cordoned: true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.commit(t, op)
	csr, _ := newCSR(t)
	j, err := f.Join(from("192.0.2.7"), f.joinToken(t, nil, ""), "web-1", map[string]string{"rack": "r9"}, csr)
	if err != nil || j.HostID != "declared-1" {
		t.Fatalf("Join = %q, %v; want the declared host", j.HostID, err)
	}
	if h := f.host(t, "declared-1"); h.Labels["rack"] != "r3" || !h.Cordoned || h.Declared {
		t.Errorf("host: %+v; what was declared wins", h)
	}
	other, _ := newCSR(t)
	if _, err := f.Join(from("192.0.2.7"), f.joinToken(t, nil, ""), "web-1", nil, other); !wire.Is(err, connect.CodeAlreadyExists) {
		t.Errorf("a second host of that name: %v", err)
	}
}

func TestJoinWhenTheAnswerOfTheStoreIsLost(t *testing.T) {
	f := newFixture(t)
	token := f.joinToken(t, nil, "")
	csr, _ := newCSR(t)
	f.store.Lose(func(op memstore.Op) error {
		if op.Name == "commit" {
			return record.ErrUnavailable
		}
		return nil
	})
	if _, err := f.Join(from("192.0.2.7"), token, "web-1", nil, csr); !errors.Is(err, record.ErrUnavailable) {
		t.Fatalf("Join: %v", err)
	}
	f.store.Lose(nil)
	if _, err := f.Join(from("192.0.2.7"), token, "web-1", nil, csr); err != nil {
		t.Errorf("the same host again: %v", err)
	}
	if hosts, _, err := f.store.List(t.Context(), record.KindHost, ""); err != nil || len(hosts) != 1 {
		t.Errorf("%d hosts, %v", len(hosts), err)
	}
}

func TestBuilders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		two := fixtureOver(t, f.store, f.ca)
		two.run(t)
		s := newTestSigner(t)
		admin := f.as(t, Admin)
		b, err := f.AddBuilder(admin, record.Builder{Name: "ci", Public: s.Public(), Services: []string{"web"}})
		if err != nil || b.KeyID != s.KeyID() {
			t.Fatalf("AddBuilder = %+v, %v", b, err)
		}
		m, manifest, env := signedRelease(t, s, nil)
		synctest.Wait()
		for _, a := range []*fixture{f, two} {
			if _, err := a.Trust().VerifyRelease(m, manifest, env); err != nil {
				t.Errorf("after adding: %v", err)
			}
		}
		if _, err := f.RevokeBuilder(admin, s.KeyID(), ""); !wire.Is(err, connect.CodeInvalidArgument) {
			t.Errorf("revoking without a reason: %v", err)
		}
		if _, err := f.RevokeBuilder(admin, s.KeyID(), "laptop stolen"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, a := range []*fixture{f, two} {
			if _, err := a.Trust().VerifyRelease(m, manifest, env); !errors.Is(err, ErrUntrusted) {
				t.Errorf("after revoking: %v", err)
			}
		}
		if _, err := two.AddBuilder(admin, record.Builder{Name: "ci", Public: s.Public()}); !wire.Is(err, connect.CodeFailedPrecondition) {
			t.Errorf("adding a revoked key again: %v", err)
		}
		for name, b := range map[string]record.Builder{
			"no key": {Name: "x"}, "foreign id": {Name: "x", KeyID: "00", Public: newTestSigner(t).Public()}, "bad pattern": {Name: "x", Public: newTestSigner(t).Public(), Refs: []string{"["}},
		} {
			if _, err := f.AddBuilder(admin, b); !wire.Is(err, connect.CodeInvalidArgument) {
				t.Errorf("%s: %v, want invalid argument", name, err)
			}
		}
		if list, err := f.ListBuilders(admin); err != nil || len(list) != 1 || !list[0].Revoked {
			t.Errorf("ListBuilders = %+v, %v", list, err)
		}
	})
}
