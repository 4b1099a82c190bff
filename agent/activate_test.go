package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/release"
)

func TestInstallUpgradeAndGoBack(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	r1, r2 := shop(t, dir, nil), shop(t, dir, func(r *release.Recipe) {
		r.Checks.Pre = []release.Script{{Name: "who", Run: "cat release.txt; echo; echo $MURMUR_PHASE $MURMUR_PREVIOUS"}}
		r.Checks.Post = []release.Script{{Run: "echo done >&2"}}
	})
	h := boot(t, testConfig(root, newFakeSwarm(r1, r2)))
	h.tell(order(1, r1))
	h.awaitActive(r1)
	if got := answers(root); got != r1.id {
		t.Errorf("%q answers, want r1", got)
	}
	h.tell(order(2, r1, r2))
	h.await("r2 staged", func(s *murmurv1.ServiceReport) bool {
		for _, st := range s.GetStaged() {
			if st.ReleaseId == r2.id && st.Ready {
				return true
			}
		}
		return false
	})
	if got := answers(root); got != r1.id {
		t.Errorf("staging changed what answers to %q", got)
	}
	h.tell(order(3, r2, r1))
	rep := h.awaitActive(r2)
	if got := answers(root); got != r2.id || rep.Status.Previous != r1.id {
		t.Errorf("%q answers, previous %q", got, rep.Status.Previous)
	}
	if len(rep.Scripts) != 2 || string(rep.Scripts[0].Output) != r2.id+"\npre "+r1.id+"\n" || string(rep.Scripts[1].Output) != "done\n" {
		t.Errorf("scripts %v", rep.Scripts)
	}
	if cur, err := os.Readlink(filepath.Join(root, "shop", "current")); err != nil || cur != "releases/"+r2.id {
		t.Errorf("current is %q, %v", cur, err)
	}
	back := order(4, r1, r2)
	back.Services[0].WayBack = true
	h.tell(back)
	h.awaitActive(r1)
	if got := answers(root); got != r1.id {
		t.Errorf("%q answers after the way back", got)
	}
}

func TestReleaseThatFailsLeavesTheOldOne(t *testing.T) {
	cases := map[string]struct {
		edit func(*release.Recipe)
		want string
	}{
		"unhealthy": {func(r *release.Recipe) {
			r.Run.Env["SICK"] = "1"
			r.Health[0].Deadline = release.Duration(100 * time.Millisecond)
		}, "I am sick"},
		"dies at start": {func(r *release.Recipe) { r.Run.Env["AGENT_TEST_ROLE"] = "service"; r.Run.Command = "/bin/false" }, "status 1"},
		"crash loop": {func(r *release.Recipe) {
			r.Run.Command, r.Run.Args = "/bin/sh", []string{"-c", "sleep 0.3; exit 9"}
		}, "crash loop"},
		"no such program": {func(r *release.Recipe) { r.Run.Command = "bin/missing" }, "bin/missing"},
		"pre check": {func(r *release.Recipe) {
			r.Checks.Pre = []release.Script{{Name: "db", Run: "echo no database; exit 4"}}
		}, `pre check "db": exit status 4`},
		"pre check hangs": {func(r *release.Recipe) {
			r.Checks.Pre = []release.Script{{Run: "sleep 600", Timeout: release.Duration(50 * time.Millisecond)}}
		}, "timed out after 50ms"},
		"drain":      {func(r *release.Recipe) { r.Checks.Drain = []release.Script{{Run: "exit 5"}} }, "drain check"},
		"post check": {func(r *release.Recipe) { r.Checks.Post = []release.Script{{Run: "echo wrong numbers; exit 6"}} }, "exit status 6"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, root := t.TempDir(), t.TempDir()
			good, bad := shop(t, dir, nil), shop(t, dir, c.edit)
			h := boot(t, testConfig(root, newFakeSwarm(good, bad)))
			h.tell(order(1, good))
			h.awaitActive(good)
			h.tell(order(2, bad, good))
			rep := h.awaitFailed(bad)
			if !strings.Contains(rep.Error, c.want) {
				t.Errorf("error %q does not say %q", rep.Error, c.want)
			}
			rep = h.await("good runs", func(s *murmurv1.ServiceReport) bool { return s.Status.State == StateRunning })
			if got := answers(root); got != good.id || rep.Status.Active != good.id {
				t.Errorf("%q answers and %q is active, want the old release", got, rep.Status.Active)
			}
			// It is not tried again until the order asks for it.
			before := len(rep.Scripts)
			h.tell(order(3, bad, good))
			if rep := h.report(); len(rep.Scripts) != before || rep.Outcome != murmurv1.Outcome_OUTCOME_FAILED {
				t.Errorf("tried again: %v", rep)
			}
		})
	}
}

func TestRetryNumberTriesAgain(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	flag := filepath.Join(dir, "fixed")
	r := shop(t, dir, func(r *release.Recipe) { r.Checks.Pre = []release.Script{{Run: "test -e " + flag}} })
	h := boot(t, testConfig(root, newFakeSwarm(r)))
	h.tell(order(1, r))
	rep := h.awaitFailed(r)
	if rep.Status.Active != "" || rep.Status.State != StateEmpty {
		t.Errorf("status %v after a first release failed", rep.Status)
	}
	check(t, os.WriteFile(flag, nil, 0o600))
	again := order(2, r)
	again.Services[0].Retry = 1
	h.tell(again)
	h.awaitActive(r)
}

func TestRestartedAgentFindsItsServiceRunning(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	r1 := shop(t, dir, nil)
	h := boot(t, testConfig(root, newFakeSwarm(r1)))
	h.tell(order(1, r1))
	h.awaitActive(r1)
	pid := h.pid()
	h.stop()
	if got := answers(root); got != r1.id {
		t.Fatalf("%q answers while no agent runs", got)
	}
	h = boot(t, testConfig(root, newFakeSwarm()))
	h.awaitActive(r1)
	if now := h.pid(); now != pid {
		t.Errorf("process %d became %d: the service was restarted", pid, now)
	}
}

func (h *host) pid() int {
	h.t.Helper()
	s := Status{}
	check(h.t, h.agent.ask(h.t.Context(), func(l *loop) { s = l.status() }))
	return s.Services[0].PID
}

// TestQuietIsSaidAfterEachStaging holds the agent to naming the moment when memory can be given back.
func TestQuietIsSaidAfterEachStaging(t *testing.T) {
	dir := t.TempDir()
	r1, r2 := shop(t, dir, nil), shop(t, dir, nil)
	quiet := make(chan struct{}, 8)
	cfg := testConfig(t.TempDir(), newFakeSwarm(r1, r2))
	cfg.Quiet = func() { quiet <- struct{}{} }
	h := boot(t, cfg)
	for i, r := range []rel{r1, r2} {
		h.tell(order(int64(i+1), r))
		h.awaitActive(r)
		<-quiet
	}
	if n := len(quiet); n != 0 {
		t.Errorf("said %d times more than there were stagings", n)
	}
}
