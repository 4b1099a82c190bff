package seeder

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/internal/memstore"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/rollout"
)

// wantTold fails unless every agent was told exactly these releases, in this order: none skipped, none twice.
func wantTold(t *testing.T, agents []*fakeAgent, want ...string) {
	t.Helper()
	for _, a := range agents {
		if diff := cmp.Diff(want, a.told()); diff != "" {
			t.Errorf("host %s was told (-want +got):\n%s", a.host, diff)
		}
	}
}

func TestNextLeaderGoesOnFromEveryPhase(t *testing.T) {
	for _, tc := range []struct {
		name   string
		park   func(w *world, api *api, agents []*fakeAgent, old, next string) string
		finish func(w *world, api *api, id string, agents []*fakeAgent, old, next string)
		end    rollout.Phase
		back   bool
	}{
		{
			name: "paused",
			park: func(w *world, api *api, _ []*fakeAgent, _, next string) string {
				id := api.start(w.tb, next)
				w.awaitPhase(id, rollout.Paused)
				return id
			},
			finish: func(w *world, api *api, id string, _ []*fakeAgent, _, _ string) {
				api.steer(w.tb, id, murmurv1.Steer_STEER_PROMOTE)
			},
			end: rollout.Complete,
		},
		{
			name: "activating",
			park: func(w *world, api *api, agents []*fakeAgent, _, next string) string {
				for _, a := range agents {
					a.held[next] = true
				}
				id := api.start(w.tb, next)
				w.awaitPhase(id, rollout.Activating)
				return id
			},
			finish: func(w *world, api *api, id string, agents []*fakeAgent, _, next string) {
				for _, a := range agents {
					a.finish(next)
				}
				w.awaitPhase(id, rollout.Paused)
				api.steer(w.tb, id, murmurv1.Steer_STEER_PROMOTE)
			},
			end: rollout.Complete,
		},
		{
			name: "rolling back",
			park: func(w *world, api *api, agents []*fakeAgent, old, next string) string {
				for _, a := range agents {
					a.held[old] = true
				}
				id := api.start(w.tb, next)
				w.awaitPhase(id, rollout.Paused)
				api.steer(w.tb, id, murmurv1.Steer_STEER_ROLLBACK)
				w.awaitPhase(id, rollout.RollingBack)
				return id
			},
			finish: func(_ *world, _ *api, _ string, agents []*fakeAgent, old, _ string) {
				for _, a := range agents {
					a.finish(old)
				}
			},
			end: rollout.RolledBack, back: true,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			old, next := w.release(1, manual()), w.release(2, manual())
			w.stable(old)
			s1 := w.seeder("s1")
			w.must(s1.Leading, "the first seeder leading")
			s2 := w.seeder("s2")
			agents := w.fleetOf(s2, 3, old)
			id := tc.park(w, w.api(s1), agents, old, next)
			s1.kill()
			w.must(s2.Leading, "the second seeder leading")
			tc.finish(w, w.api(s2), id, agents, old, next)
			state := w.awaitPhase(id, tc.end)
			if !tc.back {
				w.must(allRun(agents, next), "every host on the new release")
				wantTold(t, agents, old, next)
				return
			}
			w.must(allRun(agents, old), "every host back")
			for i, h := range state.Plan.Hosts {
				want := []string{old}
				if state.Hosts[i].Phase.Touched() {
					want = []string{old, next, old}
				}
				if diff := cmp.Diff(want, w.agents[h.ID].told()); diff != "" {
					t.Errorf("host %s was told (-want +got):\n%s", h.ID, diff)
				}
			}
		})
	}
}

func TestLeadershipLostAgainAndAgainRepeatsNothing(t *testing.T) {
	w := newWorld(t)
	old, next := w.release(1, quick()), w.release(2, quick())
	w.stable(old)
	s := w.seeder("s1")
	agents := w.fleetOf(s, 6, old)
	w.must(s.Leading, "a leader")
	id := w.api(s).start(t, next)
	w.must(func() bool {
		w.store.Depose(election)
		return w.rollout(id).Phase == rollout.Complete
	}, "a complete rollout")
	w.must(allRun(agents, next), "every host on the new release")
	w.must(func() bool { return w.service().Active == "" }, "a free slot")
	wantTold(t, agents, old, next)
	if svc := w.service(); svc.Stable != next || svc.Previous != old || !slices.Equal(svc.History, []string{next, old}) {
		t.Errorf("service %+v: an effect was lost or repeated", svc)
	}
}

func TestLostAnswersAndOutageOfTheStore(t *testing.T) {
	w := newWorld(t)
	old, next := w.release(1, manual()), w.release(2, manual())
	w.stable(old)
	s := w.seeder("s1")
	agents := w.fleetOf(s, 4, old)
	api := w.api(s)
	id := api.start(t, next)
	w.awaitPhase(id, rollout.Paused)

	down := func(op memstore.Op) error {
		if op.Name == "commit" {
			return record.ErrUnavailable
		}
		return nil
	}
	w.store.Fail(down)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := api.SteerRollout(ctx, connect.NewRequest(&murmurv1.SteerRolloutRequest{
		Service: testService, Id: id, Steer: murmurv1.Steer_STEER_PROMOTE,
	}))
	if err == nil {
		t.Error("a promote was acknowledged that is not stored")
	}
	if _, err := api.Stop(t.Context(), connect.NewRequest(&murmurv1.StopRequest{Reason: "x"})); err == nil {
		t.Error("a stop was acknowledged that is not stored")
	}
	if n := len(slices.DeleteFunc(slices.Clone(agents), func(a *fakeAgent) bool { return a.runs() == old })); n != 1 {
		t.Errorf("%d hosts changed while nothing could be stored, want the canary of before only", n)
	}
	w.store.Fail(nil)
	// Now every second answer is lost: the commit is done, only nobody hears of it.
	var n atomic.Int64
	w.store.Lose(func(op memstore.Op) error {
		if op.Name == "commit" && n.Add(1)%2 == 0 {
			return record.ErrUnavailable
		}
		return nil
	})
	w.must(func() bool {
		_, err := api.SteerRollout(t.Context(), connect.NewRequest(&murmurv1.SteerRolloutRequest{
			Service: testService, Id: id, Steer: murmurv1.Steer_STEER_PROMOTE,
		}))
		return err == nil || w.rollout(id).Phase != rollout.Paused
	}, "a promote")
	w.awaitPhase(id, rollout.Complete)
	w.store.Lose(nil)
	w.must(allRun(agents, next), "every host on the new release")
	wantTold(t, agents, old, next)
}

func TestStopIsStoredPushedAndHoldsForANewSeeder(t *testing.T) {
	w := newWorld(t)
	old, next := w.release(1, manual()), w.release(2, manual())
	w.stable(old)
	s1 := w.seeder("s1")
	agents := w.fleetOf(s1, 3, old)
	api := w.api(s1)
	id := api.start(t, next)
	w.awaitPhase(id, rollout.Paused)
	if _, err := api.Stop(t.Context(), connect.NewRequest(&murmurv1.StopRequest{Reason: "smoke"})); err != nil {
		t.Fatal(err)
	}
	stop, _, err := record.Get[record.Stop](t.Context(), w.store, record.StopKey)
	if err != nil || !stop.Stopped || stop.Reason != "smoke" || stop.By != "root" {
		t.Fatalf("acknowledged but stored as %+v, %v", stop, err)
	}
	w.must(func() bool {
		return !slices.ContainsFunc(agents, func(a *fakeAgent) bool { return !a.isStopped() })
	}, "every agent stopped")
	s1.kill()
	s2 := w.seeder("s2")
	for _, a := range agents {
		w.attach(s2, a)
	}
	w.must(s2.Leading, "the next leader")
	w.must(func() bool { return w.rollout(id).Cause == rollout.CauseStop }, "the rollout halted by the stop")
	api = w.api(s2)
	_, err = api.SteerRollout(t.Context(), connect.NewRequest(&murmurv1.SteerRolloutRequest{
		Service: testService, Id: id, Steer: murmurv1.Steer_STEER_RESUME,
	}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("resume under a stop: %v, want a refusal", err)
	}
	api.steer(t, id, murmurv1.Steer_STEER_ROLLBACK)
	w.awaitPhase(id, rollout.RolledBack)
	w.must(allRun(agents, old), "the way back under the stop")
	if _, err := api.LiftStop(t.Context(), connect.NewRequest(&murmurv1.LiftStopRequest{})); err != nil {
		t.Fatal(err)
	}
	w.must(func() bool {
		return !slices.ContainsFunc(agents, (*fakeAgent).isStopped)
	}, "every agent released")
}

func TestFollowerHandsOnReportsAndCommands(t *testing.T) {
	w := newWorld(t)
	old, next := w.release(1, quick()), w.release(2, quick())
	w.stable(old)
	s1 := w.seeder("s1")
	w.must(s1.Leading, "the first seeder leading")
	s2 := w.seeder("s2")
	agents := w.fleetOf(s2, 4, old)
	api := w.api(s2)
	w.must(func() bool { return len(s1.roster.connected()) == 4 }, "the leader hearing of the follower's hosts")
	id := api.start(t, next)
	w.awaitPhase(id, rollout.Complete)
	w.must(allRun(agents, next), "every host on the new release")
	hosts, err := api.fleet.ListHosts(t.Context(), connect.NewRequest(&murmurv1.ListHostsRequest{}))
	if err != nil || len(hosts.Msg.Hosts) != 4 || !hosts.Msg.Hosts[0].Connected || hosts.Msg.Hosts[0].Seeder != "s2" {
		t.Errorf("hosts %v, %v; want all four connected to s2", hosts, err)
	}
}
