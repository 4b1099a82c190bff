package seeder

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/rollout"
)

// fleetOf makes n attached hosts in racks of two that run a release.
func (w *world) fleetOf(s *running, n int, active string) []*fakeAgent {
	w.tb.Helper()
	var out []*fakeAgent
	for i := range n {
		out = append(out, w.agent("h"+string(rune('a'+i)), "r"+string(rune('1'+i/2)), active))
	}
	for _, a := range out {
		w.attach(s, a)
	}
	return out
}

// tellings counts notices by key.
type tellings struct {
	mu   sync.Mutex
	keys map[string]int
}

// Tell implements Notifier.
func (n *tellings) Tell(_ context.Context, m Notice) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.keys[m.Key]++
	return nil
}

// once fails unless people were told something, and nothing twice.
func (n *tellings) once(t *testing.T) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.keys) == 0 {
		t.Error("nobody was told anything")
	}
	for key, times := range n.keys {
		if times != 1 {
			t.Errorf("%s was told %d times", key, times)
		}
	}
}

func allRun(agents []*fakeAgent, release string) func() bool {
	return func() bool {
		return !slices.ContainsFunc(agents, func(a *fakeAgent) bool { return a.runs() != release })
	}
}

func TestRolloutReachesEveryHostAndBecomesStable(t *testing.T) {
	w := newWorld(t)
	old, next := w.release(1, quick()), w.release(2, quick())
	w.stable(old)
	told := &tellings{keys: map[string]int{}}
	s := w.seeder("s1", func(c *Config) { c.Notifier = told })
	agents := w.fleetOf(s, 4, old)
	id := w.api(s).start(t, "latest")
	w.awaitPhase(id, rollout.Complete)
	w.must(allRun(agents, next), "every host on the new release")
	w.must(func() bool { svc := w.service(); return svc.Active == "" && svc.Last == id }, "a free slot")
	svc := w.service()
	if svc.Stable != next || svc.Previous != old || svc.Lock != nil {
		t.Errorf("service %+v, want stable %s and previous %s", svc, next, old)
	}
	for _, a := range agents {
		if diff := cmp.Diff([]string{old, next}, a.told()); diff != "" {
			t.Errorf("host %s was told (-want +got):\n%s", a.host, diff)
		}
	}
	w.must(func() bool { return len(w.rollout(id).Outbox) == 0 }, "every effect confirmed")
	told.once(t)
	late := w.agent("late", "r9", "")
	w.attach(s, late)
	w.must(func() bool { return late.runs() == next }, "a late host converging")
}

func TestFailedCanaryGoesBackAndLocks(t *testing.T) {
	w := newWorld(t)
	old, next := w.release(1, quick()), w.release(2, quick())
	w.stable(old)
	s := w.seeder("s1")
	agents := w.fleetOf(s, 4, old)
	for _, a := range agents {
		a.bad[next] = true
	}
	api := w.api(s)
	id := api.start(t, next[:len(next)-1]+"2")
	state := w.awaitPhase(id, rollout.RolledBack)
	if n := touchedHosts(&state); n != 1 {
		t.Errorf("%d hosts were touched, want the canary only", n)
	}
	w.must(allRun(agents, old), "every host on the old release")
	w.must(func() bool { svc := w.service(); return svc.Lock != nil && svc.Active == "" }, "the service locked")
	if svc := w.service(); svc.Stable != old || svc.Lock.By != "murmur" {
		t.Errorf("service %+v, want stable %s and a lock by murmur", svc, old)
	}
	_, err := api.StartRollout(t.Context(), connect.NewRequest(&murmurv1.StartRolloutRequest{Service: testService, Release: next}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), "locked") {
		t.Errorf("start on a locked service: %v, want a refusal", err)
	}
	canary := state.Plan.Hosts[0].ID
	scripts, err := api.GetScripts(t.Context(), connect.NewRequest(&murmurv1.GetScriptsRequest{Service: testService, Host: canary}))
	if err != nil || len(scripts.Msg.Scripts) != 1 || string(scripts.Msg.Scripts[0].Output) != "boom" {
		t.Errorf("scripts %v, %v, want what the check printed", scripts, err)
	}
}

func touchedHosts(s *rollout.State) int {
	n := 0
	for _, h := range s.Hosts {
		if h.Phase.Touched() {
			n++
		}
	}
	return n
}

func TestManualStepWaitsAndCommandsSteer(t *testing.T) {
	w := newWorld(t)
	old, next := w.release(1, manual()), w.release(2, manual())
	w.stable(old)
	s := w.seeder("s1")
	agents := w.fleetOf(s, 4, old)
	api := w.api(s)
	id := api.start(t, next)
	w.awaitPhase(id, rollout.Paused)
	_, err := api.SteerRollout(t.Context(), connect.NewRequest(&murmurv1.SteerRolloutRequest{
		Service: testService, Id: id, Steer: murmurv1.Steer_STEER_RESUME,
	}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("resume of a manual step: %v, want a refusal that says promote", err)
	}
	api.steer(t, id, murmurv1.Steer_STEER_PROMOTE)
	w.awaitPhase(id, rollout.Complete)
	w.must(allRun(agents, next), "every host on the new release")

	resp, err := api.RollbackService(t.Context(), connect.NewRequest(&murmurv1.RollbackServiceRequest{Service: testService, Reason: "night"}))
	if err != nil {
		t.Fatal(err)
	}
	if resp.Msg.Rollout.Id != id {
		t.Errorf("rolled back %s, want the complete rollout %s", resp.Msg.Rollout.Id, id)
	}
	w.awaitPhase(id, rollout.RolledBack)
	w.must(allRun(agents, old), "every host back")
	w.must(func() bool { svc := w.service(); return svc.Stable == old && svc.Active == "" }, "the old release stable again")
}

func TestWayBackToANamedRelease(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.release(1, quick()), w.release(2, quick()), w.release(3, quick())
	w.stable(a)
	w.stable(b)
	w.stable(c)
	s := w.seeder("s1")
	agents := w.fleetOf(s, 3, c)
	_, err := w.api(s).services.LockService(t.Context(), connect.NewRequest(&murmurv1.LockServiceRequest{Name: testService, Reason: "incident"}))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.api(s).RollbackService(t.Context(), connect.NewRequest(&murmurv1.RollbackServiceRequest{Service: testService, To: a}))
	if err != nil {
		t.Fatal(err)
	}
	if !resp.Msg.Rollout.Instant {
		t.Error("a way back was planned like a rollout")
	}
	w.must(allRun(agents, a), "every host on the named release, lock or not")
	w.awaitPhase(resp.Msg.Rollout.Id, rollout.Complete)
}

func TestSameRequestStartsOnce(t *testing.T) {
	w := newWorld(t)
	old, next := w.release(1, manual()), w.release(2, manual())
	w.stable(old)
	s := w.seeder("s1")
	w.fleetOf(s, 2, old)
	api := w.api(s)
	req := &murmurv1.StartRolloutRequest{Service: testService, Release: next, RequestId: "click-1"}
	first, err := api.StartRollout(t.Context(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	second, err := api.StartRollout(t.Context(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	if first.Msg.Rollout.Id != second.Msg.Rollout.Id {
		t.Errorf("two rollouts %s and %s from one request", first.Msg.Rollout.Id, second.Msg.Rollout.Id)
	}
	third := api.start(t, next)
	if svc := w.service(); svc.Active != first.Msg.Rollout.Id || !slices.Equal(svc.Queue, []string{third}) {
		t.Errorf("active %s, queue %v; want %s and [%s]", svc.Active, svc.Queue, first.Msg.Rollout.Id, third)
	}
	w.awaitPhase(first.Msg.Rollout.Id, rollout.Paused)
	api.steer(t, first.Msg.Rollout.Id, murmurv1.Steer_STEER_PROMOTE)
	w.awaitPhase(first.Msg.Rollout.Id, rollout.Complete)
	got := w.awaitPhase(third, rollout.Paused, rollout.Complete)
	if got.Plan.Stable != next {
		t.Errorf("the queued rollout goes back to %s, want what is stable now, %s", got.Plan.Stable, next)
	}
}

func TestOldFailureIsNotHeldAgainstANewTry(t *testing.T) {
	w := newWorld(t)
	old, next := w.release(1, quick()), w.release(2, quick())
	w.stable(old)
	s := w.seeder("s1")
	agents := w.fleetOf(s, 3, old)
	for _, a := range agents {
		a.bad[next] = true
	}
	api := w.api(s)
	w.awaitPhase(api.start(t, next), rollout.RolledBack)
	w.must(func() bool { return w.service().Lock != nil }, "the service locked")
	if _, err := api.services.UnlockService(t.Context(), connect.NewRequest(&murmurv1.UnlockServiceRequest{Name: testService})); err != nil {
		t.Fatal(err)
	}
	w.must(func() bool { svc, _ := s.view.service(testService); return svc.rec.Lock == nil }, "the view unlocked")
	for _, a := range agents {
		a.mu.Lock()
		delete(a.bad, next)
		a.mu.Unlock()
	}
	w.awaitPhase(api.start(t, next), rollout.Complete, rollout.RolledBack)
	w.must(allRun(agents, next), "every host on the release that failed before")
}
