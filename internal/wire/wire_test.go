package wire

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/rollout"
)

func TestRolloutSaysWhichStepTakesEachHost(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	plan := rollout.Plan{ID: "r", Service: "web", Release: "b", Stable: "a", Steps: []rollout.Widening{
		{Hosts: 1, Bake: time.Minute}, {Dial: 5000}, {Dial: 10000},
	}}
	for _, id := range []string{"h1", "h2", "h3", "h4"} {
		plan.Hosts = append(plan.Hosts, rollout.Host{ID: id})
	}
	s := rollout.State{Plan: plan, Phase: rollout.Baking, BakeSince: at, Hosts: []rollout.HostState{
		{Phase: rollout.ActiveHost}, {Phase: rollout.StagedHost, Lost: true}, {Phase: rollout.StageFailedHost}, {Phase: rollout.WaitingHost},
	}}
	out := Rollout(record.Rollout{State: s}, Whole, func(id string) string { return "name-" + id })
	for i, want := range []int32{0, 1, 2, 2} {
		if h := out.Hosts[i]; h.Cohort != want || h.Name != "name-"+h.Id {
			t.Errorf("host %s: step %d and name %q, want step %d", h.Id, h.Cohort, h.Name, want)
		}
	}
	if got := out.BakeUntil.AsTime(); !got.Equal(at.Add(time.Minute)) {
		t.Errorf("bakes until %s", got)
	}
	if c := out.Counts; c.Total != 4 || c.Staged != 2 || c.Active != 1 || c.Lost != 1 || c.Failed != 0 {
		t.Errorf("counts %v", c)
	}
	if out.Gate != "unknown" || out.FinishedAt != nil {
		t.Errorf("gate %q, finished %v", out.Gate, out.FinishedAt)
	}
	if brief := Rollout(record.Rollout{State: s}, Brief, nil); brief.Hosts != nil || brief.Timeline != nil {
		t.Error("a list carries hosts or a timeline")
	}
}

func TestTimeKeepsUnsetUnset(t *testing.T) {
	if Time(time.Time{}) != nil || !ToTime(nil).IsZero() {
		t.Error("the zero time is not unset")
	}
	now := time.Now()
	if !ToTime(Time(now)).Equal(now) {
		t.Error("a time changed on its way")
	}
}

func TestReportIsBounded(t *testing.T) {
	long := strings.Repeat("é", 100_000)
	rep := &murmurv1.ServiceReport{
		Status: &murmurv1.HostService{Service: "web", Detail: long}, Error: long,
		Scripts: []*murmurv1.ScriptOutput{nil, {Output: make([]byte, 1<<20)}},
	}
	for range 1000 {
		rep.Staged = append(rep.Staged, &murmurv1.StagedRelease{ReleaseId: "r", Error: long})
		rep.Scripts = append(rep.Scripts, &murmurv1.ScriptOutput{Output: make([]byte, 60<<10)})
	}
	if err := Report(rep); err != nil {
		t.Fatal(err)
	}
	if size := proto.Size(rep); size > 512<<10 {
		t.Errorf("%d bytes are left", size)
	}
	if !rep.Scripts[1].Truncated {
		t.Error("a cut output does not say so")
	}
	for _, bad := range []*murmurv1.ServiceReport{nil, {}, {Status: &murmurv1.HostService{}}} {
		if Report(bad) == nil {
			t.Errorf("report %v without a service was taken", bad)
		}
	}
}

func FuzzReport(f *testing.F) {
	whole, err := proto.Marshal(&murmurv1.ServiceReport{
		Status: &murmurv1.HostService{Service: "web", Staged: []string{"a"}}, Staged: []*murmurv1.StagedRelease{{ReleaseId: "a"}},
		Scripts: []*murmurv1.ScriptOutput{{Name: "x", Output: []byte("y")}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte{})
	f.Add([]byte{0x0a, 0x05, 0x0a, 0x03, 'w', 'e', 'b', 0x32, 0x00})
	f.Fuzz(func(t *testing.T, body []byte) {
		var rep murmurv1.ServiceReport
		if proto.Unmarshal(body, &rep) != nil || Report(&rep) != nil {
			return
		}
		stored := StoredScripts(&rep, time.Now())
		total := 0
		for _, o := range stored.Outputs {
			total += len(o.Output)
		}
		if total > MaxScriptsOutput || len(rep.Error) > MaxText+3 || !utf8.ValidString(rep.Error) {
			t.Errorf("%d bytes of output, %d of text", total, len(rep.Error))
		}
	})
}
