package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

func TestLocalRollbackWithAndWithoutAnAgent(t *testing.T) {
	for _, running := range []bool{true, false} {
		name := map[bool]string{true: "agent runs", false: "no agent"}[running]
		t.Run(name, func(t *testing.T) {
			dir, root := t.TempDir(), t.TempDir()
			r1, r2, r3 := shop(t, dir, nil), shop(t, dir, nil), shop(t, dir, nil)
			cfg := testConfig(root, newFakeSwarm(r1, r2, r3))
			h := boot(t, cfg)
			h.tell(order(1, r1))
			h.awaitActive(r1)
			h.tell(order(2, r2, r1))
			h.awaitActive(r2)
			if !running {
				h.stop()
			}
			local, err := NewLocal(cfg)
			check(t, err)
			if err := local.Rollback(t.Context(), "shop", "", "INC-7"); err != nil {
				t.Fatal(err)
			}
			if got := answers(root); got != r1.id {
				t.Errorf("%q answers after the rollback, want r1", got)
			}
			s, err := local.Status(t.Context())
			check(t, err)
			if s.Running != running || len(s.Services) != 1 || s.Services[0].Active != r1.id || s.Services[0].State != StateRunning || !strings.Contains(s.Services[0].Pin, "INC-7") {
				t.Errorf("status %+v", s)
			}
			if !running {
				h = boot(t, cfg)
			}
			// The same wish again, as after a reconnect, does not undo it; another wish does.
			h.tell(order(3, r2, r1))
			rep := h.await("held", func(s *murmurv1.ServiceReport) bool {
				return s.Outcome == murmurv1.Outcome_OUTCOME_REFUSED && s.Status.State == StateRunning
			})
			if rep.Status.Active != r1.id || !strings.Contains(rep.Error, "local rollback") {
				t.Errorf("report %v", rep)
			}
			h.tell(order(4, r3, r1))
			h.awaitActive(r3)
		})
	}
}

func TestResumeObeysTheControlPlaneAgain(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	r1, r2 := shop(t, dir, nil), shop(t, dir, nil)
	cfg := testConfig(root, newFakeSwarm(r1, r2))
	h := boot(t, cfg)
	h.tell(order(1, r1))
	h.awaitActive(r1)
	h.tell(order(2, r2, r1))
	h.awaitActive(r2)
	local, err := NewLocal(cfg)
	check(t, err)
	check(t, local.Rollback(t.Context(), "shop", r1.id, ""))
	check(t, local.Resume(t.Context(), "shop"))
	h.awaitActive(r2)
}

func TestLocalRefusals(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	r1 := shop(t, dir, nil)
	cfg := testConfig(root, newFakeSwarm(r1))
	if _, err := NewLocal(cfg); !errors.Is(err, ErrConfig) {
		t.Errorf("a folder without an agent: %v", err)
	}
	h := boot(t, cfg)
	h.tell(order(1, r1))
	h.awaitActive(r1)
	local, err := NewLocal(cfg)
	check(t, err)
	for _, running := range []bool{true, false} {
		if !running {
			h.stop()
		}
		for _, c := range []struct{ service, to, want string }{
			{"shop", "", "no release ran before"}, {"shop", r1.id, "active one already"},
			{"shop", "../../etc", "not on this host"}, {"nope", "", "no service"},
		} {
			err := local.Rollback(t.Context(), c.service, c.to, "")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("agent running %v: rollback %s to %q: %v, want %q", running, c.service, c.to, err, c.want)
			}
		}
	}
	a, err := New(cfg)
	check(t, err)
	defer a.Close()
	if _, err := New(cfg); !errors.Is(err, ErrRunning) {
		t.Errorf("a second agent on the folder: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := local.Rollback(ctx, "shop", "", ""); !errors.Is(err, ErrRunning) {
		t.Errorf("beside a holder of the lock: %v", err)
	}
}
