package seeder

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/rollout"
)

func TestPlanShowsWhatAStartWouldDoAndWarns(t *testing.T) {
	w := newWorld(t)
	old, next := w.release(1, quick()), w.release(2, quick())
	w.stable(old)
	s := w.seeder("s1")
	w.fleetOf(s, 3, old)
	w.host("away", "r7")
	api := w.api(s)
	w.must(func() bool { _, ok := s.view.host("away"); return ok }, "the host in the view")
	plan := func(ref, strategy string) (*murmurv1.PlanRolloutResponse, error) {
		resp, err := api.PlanRollout(t.Context(), connect.NewRequest(&murmurv1.PlanRolloutRequest{
			Service: testService, Release: ref, StrategyJson: strategy,
		}))
		if err != nil {
			return nil, err
		}
		return resp.Msg, nil
	}
	got, err := plan(next, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Rollout.Hosts) != 4 || len(got.BlastRadius) != 2 || got.Rollout.Steps[0].Hosts != 1 || got.Rollout.Hosts[1].Cohort != 1 {
		t.Errorf("plan %+v", got)
	}
	if !slices.ContainsFunc(got.Warnings, func(s string) bool { return strings.Contains(s, "offline: name-away") }) {
		t.Errorf("warnings %q do not name the host that is away", got.Warnings)
	}
	if got, err = plan("stable", `{"steps":[{"hosts":2},{"dial":10000}]}`); err != nil || got.Rollout.Steps[0].Hosts != 2 {
		t.Errorf("with another strategy: %+v, %v", got, err)
	} else if !slices.ContainsFunc(got.Warnings, func(s string) bool { return strings.Contains(s, "stable one already") }) {
		t.Errorf("warnings %q do not say that it is stable", got.Warnings)
	}
	for _, bad := range []struct {
		ref, strategy string
		want          connect.Code
	}{
		{"nope", "", connect.CodeNotFound},
		{"", "", connect.CodeInvalidArgument},
		{"019a0000", "", connect.CodeInvalidArgument}, // fits two
		{next, `{"stepz":[]}`, connect.CodeInvalidArgument},
		{next, `{"max_unavailable":"many"}`, connect.CodeInvalidArgument},
		{next, `{} {}`, connect.CodeInvalidArgument},
	} {
		if _, err := plan(bad.ref, bad.strategy); connect.CodeOf(err) != bad.want {
			t.Errorf("release %q, strategy %q: %v, want %v", bad.ref, bad.strategy, err, bad.want)
		}
	}
	if list, err := api.ListRollouts(t.Context(), connect.NewRequest(&murmurv1.ListRolloutsRequest{})); err != nil || len(list.Msg.Rollouts) != 0 {
		t.Errorf("planning stored %v, %v", list, err)
	}
}

func TestCordonedAndDrainedHosts(t *testing.T) {
	w := newWorld(t)
	old, next := w.release(1, quick()), w.release(2, quick())
	w.stable(old)
	s := w.seeder("s1")
	agents := w.fleetOf(s, 3, old)
	api := w.api(s)
	update := func(m *murmurv1.UpdateHostRequest) {
		t.Helper()
		if _, err := api.fleet.UpdateHost(t.Context(), connect.NewRequest(m)); err != nil {
			t.Fatal(err)
		}
	}
	update(&murmurv1.UpdateHostRequest{Id: "ha", Cordoned: new(true)})
	w.must(func() bool { h, ok := s.view.host("ha"); return ok && h.Cordoned }, "the cordon in the view")
	id := api.start(t, next)
	state := w.awaitPhase(id, rollout.Complete)
	if len(state.Plan.Hosts) != 2 {
		t.Errorf("%d hosts took part, want the two that are not cordoned", len(state.Plan.Hosts))
	}
	w.must(allRun(agents[1:], next), "the others on the new release")
	if got := agents[0].runs(); got != old {
		t.Errorf("the cordoned host runs %s", got)
	}
	update(&murmurv1.UpdateHostRequest{Id: "name-ha", Cordoned: new(false), SetLabels: map[string]string{"rack": "r9"}})
	w.must(allRun(agents[:1], next), "the host converging once it is not cordoned")
	update(&murmurv1.UpdateHostRequest{Id: "hb", Drained: new(true)})
	w.must(func() bool {
		d, _ := s.desired("hb")
		return d.Drained && len(d.Services) == 0
	}, "the drained host told to run nothing")
	bad := connect.NewRequest(&murmurv1.UpdateHostRequest{Id: "hc", SetLabels: map[string]string{"no good": "x"}})
	if _, err := api.fleet.UpdateHost(t.Context(), bad); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a bad label: %v", err)
	}
}

func TestImportChangesNothingWhenARowIsWrong(t *testing.T) {
	w := newWorld(t)
	s := w.seeder("s1")
	api := w.api(s)
	imp := func(dry bool, hosts ...*murmurv1.Host) (*murmurv1.ImportHostsResponse, error) {
		resp, err := api.fleet.ImportHosts(t.Context(), connect.NewRequest(&murmurv1.ImportHostsRequest{Hosts: hosts, DryRun: dry}))
		if err != nil {
			return nil, err
		}
		return resp.Msg, nil
	}
	good := &murmurv1.Host{Name: "db-1", Labels: map[string]string{"rack": "r1"}}
	if _, err := imp(false, good, &murmurv1.Host{Name: "bad name"}); connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "row 2") {
		t.Errorf("a wrong row: %v, want a refusal that names it", err)
	}
	if got, err := imp(true, good); err != nil || got.Added != 1 {
		t.Errorf("dry run: %v, %v", got, err)
	}
	if n := len(s.view.hostList()); n != 0 {
		t.Fatalf("%d hosts were stored", n)
	}
	if got, err := imp(false, good); err != nil || got.Added != 1 || got.Changed != 0 {
		t.Errorf("import: %v, %v", got, err)
	}
	w.must(func() bool { return len(s.view.hostList()) == 1 }, "the host in the view")
	if got, err := imp(false, good); err != nil || got.Added != 0 || got.Changed != 0 {
		t.Errorf("the same again: %v, %v", got, err)
	}
	good.Labels = map[string]string{"rack": "r2"}
	if got, err := imp(false, good); err != nil || got.Changed != 1 {
		t.Errorf("another rack: %v, %v", got, err)
	}
}

func TestWatchFollowsARolloutToItsEnd(t *testing.T) {
	w := newWorld(t)
	old, next := w.release(1, quick()), w.release(2, quick())
	w.stable(old)
	s := w.seeder("s1")
	w.fleetOf(s, 2, old)
	api := w.api(s)
	id := api.start(t, next)
	stream, err := api.WatchRollout(t.Context(), connect.NewRequest(&murmurv1.WatchRolloutRequest{Service: testService, Id: id[:30]}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var versions []uint64
	phase := ""
	for stream.Receive() {
		versions, phase = append(versions, stream.Msg().Rollout.Version), stream.Msg().Rollout.Phase
	}
	if stream.Err() != nil || phase != string(rollout.Complete) || !slices.IsSorted(versions) {
		t.Errorf("watched versions %v to %q, %v", versions, phase, stream.Err())
	}
}

func TestPlainRoutes(t *testing.T) {
	w := newWorld(t)
	s := w.seeder("s1")
	for path, want := range map[string]int{
		"/healthz": http.StatusOK, "/readyz": http.StatusOK, "/metrics": http.StatusUnauthorized,
		"/v1/artifacts/x": http.StatusUnauthorized, "/nowhere": http.StatusNotFound,
	} {
		resp, err := w.client(nil).Get("https://" + s.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, resp.Status, want)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.Addr()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	resp, err := w.client(nil).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(body), "murmur_seeder_sessions 0") {
		t.Errorf("metrics: %s, %v", body, err)
	}
}
