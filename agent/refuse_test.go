package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/murmuration/murmuration/internal/durable"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/release"
)

// awaitRefusal waits until staging of the release was refused, and returns why.
func (h *host) awaitRefusal(id string) string {
	h.t.Helper()
	why := ""
	h.await("refusal of "+id, func(s *murmurv1.ServiceReport) bool {
		for _, st := range s.GetStaged() {
			if st.ReleaseId == id && st.Error != "" && !st.Ready {
				why = st.Error
			}
		}
		return why != ""
	})
	return why
}

func TestWhatIsNotTrustedIsNotStaged(t *testing.T) {
	cases := map[string]struct {
		spoil func(r *rel)
		want  string
	}{
		"wrong signer":     {func(r *rel) { r.ref.Envelope = []byte("forged") }, "signed by nobody"},
		"flipped manifest": {func(r *rel) { r.ref.Manifest[0] ^= 1 }, "release refused"},
		"another service":  {func(r *rel) { r.ref.Manifest = bytes.ReplaceAll(r.ref.Manifest, []byte(`"shop"`), []byte(`"shed"`)) }, "of service shed"},
		"no manifest":      {func(r *rel) { r.ref.Manifest = nil }, "release refused"},
		"another id":       {func(r *rel) { r.ref.Id = r.id[:len(r.id)-1] + string('0'+(r.id[len(r.id)-1]-'0'+1)%2) }, "release refused"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := shop(t, t.TempDir(), nil)
			c.spoil(&r)
			s := newFakeSwarm(r)
			h := boot(t, testConfig(t.TempDir(), s))
			d := order(1, r)
			h.tell(d)
			if why := h.awaitRefusal(r.ref.Id); !strings.Contains(why, c.want) {
				t.Errorf("refused with %q, want %q", why, c.want)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.fetches != 0 {
				t.Error("it was fetched before it was refused")
			}
		})
	}
}

func TestFlippedBitInTheArtifactIsFound(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	r := shop(t, dir, nil)
	b := must(os.ReadFile(r.path))
	b[10] ^= 4
	check(t, os.WriteFile(r.path, b, 0o600))
	s := newFakeSwarm(r)
	h := boot(t, testConfig(root, s))
	h.tell(order(1, r))
	if why := h.awaitRefusal(r.id); !strings.Contains(why, "corrupt") {
		t.Errorf("refused with %q", why)
	}
	if _, err := os.Stat(filepath.Join(root, artifactPath(r.id))); !os.IsNotExist(err) {
		t.Errorf("the spoilt artifact was kept: %v", err)
	}
	names := must(os.ReadDir(filepath.Join(root, "shop", "releases")))
	if len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.dropped) == 0 {
		t.Error("it is still offered to peers")
	}
}

func TestLowDiskIsRefusedEarlyWithNumbers(t *testing.T) {
	r := shop(t, t.TempDir(), nil)
	s := newFakeSwarm(r)
	cfg := testConfig(t.TempDir(), s)
	cfg.MinFree = 64 << 20
	cfg.freeSpace = func(string) (int64, int64, error) { return 64 << 20, 1 << 30, nil }
	h := boot(t, cfg)
	h.tell(order(1, r))
	why := h.awaitRefusal(r.id)
	if !strings.Contains(why, "not enough disk space") || !strings.Contains(why, "64.0 MiB are free") {
		t.Errorf("refused with %q", why)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetches != 0 {
		t.Error("it was fetched before it was refused")
	}
}

func TestStaleOrderIsRefused(t *testing.T) {
	dir := t.TempDir()
	r1, r2 := shop(t, dir, nil), shop(t, dir, nil)
	h := boot(t, testConfig(t.TempDir(), newFakeSwarm(r1, r2)))
	h.tell(order(10, r1))
	h.awaitActive(r1)
	for _, o := range []*murmurv1.Order{{Term: 1, Revision: 9}, {Term: 0, Revision: 99}} {
		d := order(0, r2)
		d.Order = o
		h.tell(d)
		var refusal *murmurv1.ServiceReport
		for _, m := range h.agent.out.take() {
			if m.GetService().GetOutcome() == murmurv1.Outcome_OUTCOME_REFUSED {
				refusal = m.GetService()
			}
		}
		if refusal == nil || !strings.Contains(refusal.Error, "stale order") {
			t.Errorf("order %v: refusal %v", o, refusal)
		}
	}
	if rep := h.report(); rep.Order.GetRevision() != 10 || rep.Status.Active != r1.id {
		t.Errorf("report %v", rep)
	}
}

func TestEmergencyStop(t *testing.T) {
	dir := t.TempDir()
	r1 := shop(t, dir, nil)
	r2 := shop(t, dir, func(r *release.Recipe) { r.Checks.Pre = []release.Script{{Run: "sleep 600"}} })
	h := boot(t, testConfig(t.TempDir(), newFakeSwarm(r1, r2)))
	h.tell(order(1, r1))
	h.awaitActive(r1)
	h.tell(order(2, r2, r1))
	h.await("r2 activating", func(s *murmurv1.ServiceReport) bool { return s.Status.State == StateActivating })

	stop := order(3, r2, r1)
	stop.Stopped, stop.StopReason = true, "site is down"
	h.tell(stop)
	rep := h.await("refused", func(s *murmurv1.ServiceReport) bool {
		return s.Outcome == murmurv1.Outcome_OUTCOME_REFUSED && s.Status.State == StateRunning
	})
	if rep.Status.Active != r1.id || !strings.Contains(rep.Error, "site is down") {
		t.Errorf("report %v", rep)
	}
	if got := answers(h.cfg.Root); got != r1.id {
		t.Errorf("%q answers", got)
	}
}

func TestEmergencyStopLetsAWayBackThrough(t *testing.T) {
	dir := t.TempDir()
	r1, r2 := shop(t, dir, nil), shop(t, dir, nil)
	h := boot(t, testConfig(t.TempDir(), newFakeSwarm(r1, r2)))
	h.tell(order(1, r1))
	h.awaitActive(r1)
	h.tell(order(2, r2, r1))
	h.awaitActive(r2)
	d := order(3, r1, r2)
	d.Stopped, d.Services[0].WayBack = true, true
	h.tell(d)
	h.awaitActive(r1)
}

func TestNewerOrderEndsTheWaitForHealth(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	good, sick := shop(t, dir, nil), shop(t, dir, func(r *release.Recipe) {
		r.Run.Env["SICK"] = "1"
		r.Health[0].Deadline = release.Duration(10 * time.Minute)
	})
	h := boot(t, testConfig(root, newFakeSwarm(good, sick)))
	h.tell(order(1, good))
	h.awaitActive(good)
	h.tell(order(2, sick, good))
	h.await("switched", func(*murmurv1.ServiceReport) bool {
		cur, err := os.Readlink(filepath.Join(root, "shop", "current"))
		return err == nil && cur == "releases/"+sick.id
	})
	back := order(3, good, sick)
	back.Services[0].WayBack = true
	h.tell(back)
	h.awaitActive(good)
	if got := answers(root); got != good.id {
		t.Errorf("%q answers, want the old release", got)
	}
}

func TestDrainStopsAndReturns(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	r1 := shop(t, dir, nil)
	h := boot(t, testConfig(root, newFakeSwarm(r1)))
	h.tell(order(1, r1))
	h.awaitActive(r1)
	d := order(2, r1)
	d.Drained = true
	h.tell(d)
	h.await("stopped", func(s *murmurv1.ServiceReport) bool { return s.Status.State == StateStopped })
	if got := answers(root); got != "" {
		t.Errorf("%q answers on a drained host", got)
	}
	h.tell(order(3, r1))
	h.await("running", func(s *murmurv1.ServiceReport) bool { return s.Status.State == StateRunning })
	if got := answers(root); got != r1.id {
		t.Errorf("%q answers after the drain", got)
	}
}

func TestOldReleasesAreCleanedUp(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	var all []rel
	for range 6 {
		all = append(all, shop(t, dir, nil))
	}
	cfg := testConfig(root, newFakeSwarm(all...))
	cfg.KeepReleases = 2
	h := boot(t, cfg)
	for i, r := range all {
		d := order(int64(i+1), r)
		d.Services[0].Keep = []string{all[0].id}
		h.tell(d)
		h.awaitActive(r)
	}
	rep := h.await("cleaned", func(s *murmurv1.ServiceReport) bool { return len(s.Status.Staged) == 3 })
	want := []string{all[0].id, all[4].id, all[5].id} // kept by order, previous, current
	for i, id := range rep.Status.Staged {
		if id != want[i] {
			t.Errorf("on disk %v, want %v", rep.Status.Staged, want)
			break
		}
	}
	for i, r := range all {
		_, err := os.Stat(filepath.Join(root, artifactPath(r.id)))
		if kept := i == 0 || i >= 4; kept != (err == nil) {
			t.Errorf("artifact %d: %v", i, err)
		}
	}
}

func TestDriftIsReported(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	r1 := shop(t, dir, nil)
	h := boot(t, testConfig(root, newFakeSwarm(r1)))
	h.tell(order(1, r1))
	h.awaitActive(r1)
	h.stop()
	check(t, os.WriteFile(filepath.Join(root, "shop", "current", "sub", "same.txt"), []byte("edited by hand"), 0o600))
	h = boot(t, testConfig(root, newFakeSwarm()))
	rep := h.await("drift", func(s *murmurv1.ServiceReport) bool { return s.GetStatus().GetDrift() })
	if len(rep.Status.Drifted) != 1 || !strings.Contains(rep.Status.Drifted[0], "sub/same.txt") {
		t.Errorf("drifted %v", rep.Status.Drifted)
	}
}

func TestDamagedMemoryIsNoReasonNotToStart(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	r1 := shop(t, dir, nil)
	h := boot(t, testConfig(root, newFakeSwarm(r1)))
	h.tell(order(1, r1))
	h.awaitActive(r1)
	h.stop()
	rt := must(os.OpenRoot(root))
	defer rt.Close()
	for _, name := range []string{memoryFile, "shop/state.json"} {
		check(t, durable.WriteFile(rt, name, []byte("{"), 0o600))
	}
	h = boot(t, testConfig(root, newFakeSwarm()))
	h.await("running", func(s *murmurv1.ServiceReport) bool {
		return s.GetStatus().GetState() == StateRunning && s.GetStatus().GetActive() == r1.id
	})
}
