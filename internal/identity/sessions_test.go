package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

func TestLogin(t *testing.T) {
	f := newFixture(t)
	token, s, _, err := f.Login(from("192.0.2.1"), "root", password)
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.by(token)
	if err != nil || c.Name != "root" || c.Role != Admin || c.Session != s.ID || c.From != "192.0.2.1" {
		t.Fatalf("by session = %+v, %v", c, err)
	}
	for name, bad := range map[string]string{
		"wrong secret": strings.Join([]string{prefixSession, s.ID, strings.Repeat("A", 26)}, "."),
		"unknown id":   "ms1.nope." + strings.Repeat("A", 26),
		"not a token":  "hello", "as API token": strings.Replace(token, "ms1", "mt1", 1), "empty": "",
	} {
		if c, err := f.by(bad); !errors.Is(err, ErrBadToken) {
			t.Errorf("%s: %+v, %v; want ErrBadToken", name, c, err)
		}
	}
	if err := f.Logout(WithCaller(t.Context(), c)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.by(token); !errors.Is(err, ErrBadToken) {
		t.Errorf("after log-out: %v", err)
	}
}

func TestSessionLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.run(t)
		token, _, _, err := f.Login(from("192.0.2.1"), "root", password)
		if err != nil {
			t.Fatal(err)
		}
		idle, _, _, err := f.Login(from("192.0.2.1"), "root", password)
		if err != nil {
			t.Fatal(err)
		}
		used := func() error {
			synctest.Wait()
			_, err := f.by(token)
			return err
		}
		for hours := range 16 * 10 {
			if time.Sleep(time.Hour); used() != nil {
				t.Fatalf("a log-in in use ended after %d hours", hours)
			}
		}
		if _, err := f.by(idle); !errors.Is(err, ErrBadToken) {
			t.Errorf("an idle log-in is good after %v: %v", 160*time.Hour, err)
		}
		for range 9 {
			time.Sleep(time.Hour)
			_ = used()
		}
		if err := used(); !errors.Is(err, ErrBadToken) {
			t.Errorf("a log-in in use is good after 7 days: %v", err)
		}
		if items, _, err := f.store.List(t.Context(), record.KindSession, ""); err != nil || len(items) != 1 {
			t.Errorf("%d sessions are stored, %v; the idle one should have been swept", len(items), err)
		}
	})
}

func TestChangesEndSessions(t *testing.T) {
	root := WithCaller(context.Background(), Caller{Name: "root", User: "root", Role: Admin})
	for name, change := range map[string]func(f *fixture) error{
		"password": func(f *fixture) error {
			_, err := f.PutUser(root, record.User{Name: "user-ops", Role: "ops"}, "another password")
			return err
		},
		"role": func(f *fixture) error {
			_, err := f.PutUser(root, record.User{Name: "user-ops", Role: "viewer"}, "")
			return err
		},
		"disabled": func(f *fixture) error {
			_, err := f.PutUser(root, record.User{Name: "user-ops", Role: "ops", Disabled: true}, "")
			return err
		},
		"removed": func(f *fixture) error { return f.RemoveUser(root, "user-ops") },
		"removed and made anew": func(f *fixture) error {
			if err := f.RemoveUser(root, "user-ops"); err != nil {
				return err
			}
			_, err := f.PutUser(root, record.User{Name: "user-ops", Role: "ops"}, password)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.as(t, Ops)
			token, _, _, err := f.Login(from("192.0.2.1"), "user-ops", password)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.by(token); err != nil {
				t.Fatal(err)
			}
			if err := change(f); err != nil {
				t.Fatal(err)
			}
			if c, err := f.by(token); !errors.Is(err, ErrBadToken) {
				t.Errorf("the log-in still works: %+v, %v", c, err)
			}
		})
	}
}

func TestLoginBruteForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		try := func(address, user, pw string) error {
			_, _, _, err := f.Login(from(address), user, pw)
			return err
		}
		for i := range 5 {
			if err := try("192.0.2.1", "root", "wrong password"); !errors.Is(err, ErrBadCredentials) {
				t.Fatalf("try %d: %v", i, err)
			}
		}
		if err := try("192.0.2.1", "root", password); !errors.Is(err, ErrTooManyTries) {
			t.Errorf("the sixth try, with the right password: %v", err)
		}
		if err := try("192.0.2.2", "root", password); err != nil {
			t.Errorf("the same user from another address: %v", err)
		}
		time.Sleep(31 * time.Second)
		if err := try("192.0.2.1", "root", password); err != nil {
			t.Errorf("after waiting: %v", err)
		}
		// Many log-ins that succeed are no attack.
		for i := range 100 {
			if err := try("192.0.2.4", "root", password); err != nil {
				t.Fatalf("log-in %d: %v", i, err)
			}
		}
		// Many users from one address.
		limited := 0
		for i := range 60 {
			if errors.Is(try("192.0.2.3", fmt.Sprintf("user%d", i), "wrong password"), ErrTooManyTries) {
				limited++
			}
		}
		if limited < 29 || limited > 31 {
			t.Errorf("%d of 60 tries from one address were refused, want 30", limited)
		}
	})
}

func TestLimiterIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(2, time.Second)
		for i := range maxLimited {
			l.take(fmt.Sprint(i))
		}
		if !l.take("a") || !l.take("b") || l.take("c") {
			t.Error("strangers beyond the bound do not share one allowance of 2")
		}
		if len(l.keys) != maxLimited {
			t.Errorf("%d keys are remembered", len(l.keys))
		}
		time.Sleep(2 * time.Second)
		if !l.take("d") || len(l.keys) != 1 {
			t.Errorf("idle keys are not forgotten: %d", len(l.keys))
		}
	})
}

func TestAPITokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.run(t)
		dev := f.as(t, Developer)
		if _, _, err := f.CreateToken(dev, "hook", Ops, 0); !errors.Is(err, ErrForbidden) {
			t.Errorf("a token above the owner's role: %v", err)
		}
		token, info, err := f.CreateToken(dev, "hook", Developer, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c, err := f.by(token)
		if err != nil || c.Name != "user-developer/hook" || c.Role != Developer || c.Token != info.ID {
			t.Fatalf("by token = %+v, %v", c, err)
		}
		synctest.Wait()
		mine, err := f.ListTokens(dev)
		if err != nil || len(mine) != 1 || mine[0].Secret != "" || mine[0].LastUsedAt.IsZero() {
			t.Errorf("ListTokens = %+v, %v; want one, used, without its hash", mine, err)
		}
		if others, err := f.ListTokens(f.as(t, Viewer)); err != nil || len(others) != 0 {
			t.Errorf("someone else sees %+v, %v", others, err)
		}
		if err := f.RevokeToken(f.as(t, Viewer), info.ID); !wire.Is(err, connect.CodeNotFound) {
			t.Errorf("someone else revoked it: %v", err)
		}
		// The owner's role bounds the token's from then on.
		root := WithCaller(t.Context(), Caller{Name: "root", User: "root", Role: Admin})
		if _, err := f.PutUser(root, record.User{Name: "user-developer", Role: "viewer"}, ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if c, err := f.by(token); err != nil || c.Role != Viewer {
			t.Errorf("after the owner lost the role: %+v, %v", c, err)
		}
		time.Sleep(time.Hour + time.Second)
		if _, err := f.by(token); !errors.Is(err, ErrBadToken) {
			t.Errorf("an expired token: %v", err)
		}
	})
}

func TestRevokedTokenEnds(t *testing.T) {
	f := newFixture(t)
	f.run(t)
	dev := f.as(t, Developer)
	token, info, err := f.CreateToken(dev, "hook", Developer, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.by(token); err != nil {
		t.Fatal(err)
	}
	if err := f.RevokeToken(f.as(t, Ops), info.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := f.by(token); !errors.Is(err, ErrBadToken) {
		t.Errorf("a revoked token: %v", err)
	}
}
