package flagd

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/memstore"
	"github.com/murmuration/murmuration/internal/record"
)

// tryPut writes a flag and returns the error.
func (r *running) tryPut(f *murmurv1.Flag) error {
	_, err := r.api().PutFlag(r.w.tb.Context(), connect.NewRequest(&murmurv1.PutFlagRequest{Flag: f}))
	return err
}

func conflictOf(tb testing.TB, err error) *murmurv1.FlagConflict {
	tb.Helper()
	ce, ok := errors.AsType[*connect.Error](err)
	if !ok || ce.Code() != connect.CodeAborted || len(ce.Details()) != 1 {
		tb.Fatalf("%v is no conflict with a detail", err)
	}
	v, err := ce.Details()[0].Value()
	if err != nil {
		tb.Fatal(err)
	}
	return v.(*murmurv1.FlagConflict)
}

func TestPutRefuses(t *testing.T) {
	r := newWorld(t).server()
	base := r.put(boolFlag("base", 0))
	needs := boolFlag("needs", 0)
	needs.Prerequisites = []*murmurv1.FlagPrerequisite{{Flag: "base", Variants: []string{"on"}}}
	r.put(needs)
	edit := func(change func(*murmurv1.Flag)) *murmurv1.Flag {
		f := boolFlag("new", 0)
		change(f)
		return f
	}
	tests := map[string]struct {
		flag *murmurv1.Flag
		code connect.Code
		say  string
	}{
		"dial too high":  {edit(func(f *murmurv1.Flag) { f.Dial = 10001 }), connect.CodeInvalidArgument, "10001"},
		"dial negative":  {edit(func(f *murmurv1.Flag) { f.Dial = -1 }), connect.CodeInvalidArgument, "-1"},
		"bad key":        {edit(func(f *murmurv1.Flag) { f.Key = "no/key" }), connect.CodeInvalidArgument, "key"},
		"no flag":        {nil, connect.CodeInvalidArgument, "no flag"},
		"off is missing": {edit(func(f *murmurv1.Flag) { f.Off = "huh" }), connect.CodeInvalidArgument, "off"},
		"wrong type":     {edit(func(f *murmurv1.Flag) { f.Variants[0].ValueJson = `"x"` }), connect.CodeInvalidArgument, "variants[0].value"},
		"own prerequisite": {edit(func(f *murmurv1.Flag) {
			f.Prerequisites = []*murmurv1.FlagPrerequisite{{Flag: "new", Variants: []string{"on"}}}
		}), connect.CodeInvalidArgument, "own prerequisite"},
		"no such prerequisite": {edit(func(f *murmurv1.Flag) {
			f.Prerequisites = []*murmurv1.FlagPrerequisite{{Flag: "ghost", Variants: []string{"on"}}}
		}), connect.CodeInvalidArgument, "ghost"},
		"no such segment": {edit(func(f *murmurv1.Flag) {
			f.Rules = []*murmurv1.FlagRule{{Variant: "on", Clauses: []*murmurv1.FlagClause{{Op: "segment", ValuesJson: []string{`"ghosts"`}}}}}
		}), connect.CodeInvalidArgument, "ghosts"},
		"cycle": {&murmurv1.Flag{
			Key: "base", Type: "boolean", On: "on", Off: "off", Variants: base.Variants, Version: base.Version,
			Prerequisites: []*murmurv1.FlagPrerequisite{{Flag: "needs", Variants: []string{"on"}}},
		}, connect.CodeInvalidArgument, "cycle"},
		"a variant others need": {&murmurv1.Flag{
			Key: "base", Type: "boolean", On: "off", Off: "off", Variants: base.Variants[1:], Version: base.Version,
		}, connect.CodeFailedPrecondition, "needs"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := r.tryPut(tt.flag)
			if connect.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("%v, want %v with %q", err, tt.code, tt.say)
			}
		})
	}
	if _, err := r.api().TurnFlag(t.Context(), connect.NewRequest(&murmurv1.TurnFlagRequest{Key: "base", Dial: 10001})); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("turn to 10001: %v", err)
	}
}

// TestTwoWriters: of two who change the same version one wins, and the other is shown what it had not seen.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	r := newWorld(t).server()
	f := r.put(boolFlag("a", 0))
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		mine := proto.Clone(f).(*murmurv1.Flag)
		mine.Dial = int32(100 + i)
		wg.Go(func() { errs[i] = r.tryPut(mine) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		c := conflictOf(t, err)
		if c.Current.GetVersion() != 2 || len(c.Changes) != 1 || c.Changes[0].Path != "dial" {
			t.Errorf("%+v", c)
		}
	}
	if won != 1 {
		t.Errorf("%d writers won", won)
	}
	if c := conflictOf(t, r.tryPut(boolFlag("a", 0))); c.Current.GetVersion() != 2 {
		t.Errorf("creating what exists: %+v", c)
	}
	ghost := boolFlag("ghost", 0)
	ghost.Version = 3
	if c := conflictOf(t, r.tryPut(ghost)); c.Current != nil {
		t.Errorf("changing what does not exist: %+v", c)
	}
}

// TestCycleOfTwoWriters: two who close a cycle together, each valid alone.
func TestCycleOfTwoWriters(t *testing.T) {
	r := newWorld(t).server()
	for round := range 5 {
		var wg sync.WaitGroup
		names := []string{fmt.Sprintf("a%d", round), fmt.Sprintf("b%d", round)}
		flags := []*murmurv1.Flag{r.put(boolFlag(names[0], 0)), r.put(boolFlag(names[1], 0))}
		errs := make([]error, 2)
		for i := range flags {
			flags[i].Prerequisites = []*murmurv1.FlagPrerequisite{{Flag: names[1-i], Variants: []string{"on"}}}
			wg.Go(func() { errs[i] = r.tryPut(flags[i]) })
		}
		wg.Wait()
		if errs[0] == nil && errs[1] == nil {
			t.Fatal("both were written: the store holds a cycle")
		}
		if errs[0] != nil && errs[1] != nil {
			t.Fatalf("nobody won: %v; %v", errs[0], errs[1])
		}
	}
}

func TestTurnAndDryRun(t *testing.T) {
	r := newWorld(t).server()
	f := r.put(boolFlag("a", 100))
	var wg sync.WaitGroup
	for range 5 { // without a version all of them win, one after the other
		wg.Go(func() {
			if _, err := r.api().TurnFlag(t.Context(), connect.NewRequest(&murmurv1.TurnFlagRequest{Key: "a", Dial: 250})); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := r.api().GetFlag(t.Context(), connect.NewRequest(&murmurv1.GetFlagRequest{Key: "a"}))
	if err != nil || got.Msg.Flag.Dial != 250 || got.Msg.Flag.Version != 6 || got.Msg.Flag.UpdatedBy != "root" {
		t.Fatalf("%v, %v", got, err)
	}
	if _, err := r.api().TurnFlag(t.Context(), connect.NewRequest(&murmurv1.TurnFlagRequest{Key: "a", Dial: 1, Version: f.Version})); conflictOf(t, err).Current.Dial != 250 {
		t.Error(err)
	}
	next := proto.Clone(got.Msg.Flag).(*murmurv1.Flag)
	next.Dial = 300
	dry, err := r.api().PutFlag(t.Context(), connect.NewRequest(&murmurv1.PutFlagRequest{Flag: next, DryRun: true}))
	if err != nil || len(dry.Msg.Changes) != 1 || dry.Msg.Changes[0].After != "300" {
		t.Errorf("%v, %v", dry, err)
	}
	if after := r.view.load().flags["a"].def; after.Dial != 250 {
		t.Errorf("a dry run wrote: %+v", after)
	}
	next.Schedule = &murmurv1.FlagSchedule{Stages: []*murmurv1.FlagStage{{At: timestamppb.New(time.Now().Add(-time.Hour)), Dial: 5}}}
	if now := r.put(next); now.DialNow != 5 {
		t.Errorf("dial now %d", now.DialNow)
	}
	if _, err := r.api().TurnFlag(t.Context(), connect.NewRequest(&murmurv1.TurnFlagRequest{Key: "a", Dial: 0})); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("turning what a schedule turns: %v", err)
	}
}

// TestKillAndRestore: killed, changed, restored: what comes back is the state with the change, exactly.
func TestKillAndRestore(t *testing.T) {
	t.Parallel()
	r := newWorld(t).server()
	for i := range 90 {
		f := boolFlag(fmt.Sprintf("f%02d", i), 5000)
		f.Tags = []string{"checkout"}
		f.Overrides = map[string]string{"u": "off"}
		r.put(f)
	}
	before, err := r.api().ListFlags(t.Context(), connect.NewRequest(&murmurv1.ListFlagsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.api().KillFlags(t.Context(), connect.NewRequest(&murmurv1.KillFlagsRequest{Tag: "checkout", Reason: "INC-7", WaitMs: -1}))
	if err != nil || len(resp.Msg.Keys) != 90 || resp.Msg.Revision == 0 {
		t.Fatalf("%v, %v", resp, err)
	}
	killed, err := r.api().ListFlags(t.Context(), connect.NewRequest(&murmurv1.ListFlagsRequest{KilledOnly: true, Tag: "checkout"}))
	if err != nil || len(killed.Msg.Flags) != 90 || killed.Msg.Flags[0].Killed.Why != "INC-7" || killed.Msg.Flags[0].Killed.By != "root" {
		t.Fatalf("%v", err)
	}
	again, err := r.api().KillFlags(t.Context(), connect.NewRequest(&murmurv1.KillFlagsRequest{Key: "f00", Reason: "again"}))
	if err != nil || len(again.Msg.Keys) != 1 || r.view.load().flags["f00"].def.Killed.Why != "INC-7" {
		t.Fatalf("killing twice: %v, %v", again, err)
	}
	// A write does not end a kill, and a writer cannot make one.
	f := killed.Msg.Flags[0]
	f.Killed = nil
	if now := r.put(f); now.Killed == nil {
		t.Fatal("a write ended the kill")
	}
	if _, err := r.api().RestoreFlags(t.Context(), connect.NewRequest(&murmurv1.RestoreFlagsRequest{Tag: "checkout"})); err != nil {
		t.Fatal(err)
	}
	after, err := r.api().ListFlags(t.Context(), connect.NewRequest(&murmurv1.ListFlagsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	ignore := protocmp.IgnoreFields(&murmurv1.Flag{}, "version", "updated_at")
	if diff := cmp.Diff(before.Msg.Flags, after.Msg.Flags, protocmp.Transform(), ignore); diff != "" {
		t.Error(diff)
	}
	for _, req := range []*murmurv1.KillFlagsRequest{{}, {Key: "a", Tag: "b"}, {Key: "no/key"}} {
		if _, err := r.api().KillFlags(t.Context(), connect.NewRequest(req)); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
}

// TestKillWins: over definitions that are broken in every way, and over writers who never pause.
func TestKillWins(t *testing.T) {
	r := newWorld(t).server()
	good := r.put(boolFlag("good-once", 10000))
	store := func(key, value string) {
		if _, err := r.w.store.Commit(t.Context(), record.Put(record.FlagKey(key), []byte(value), record.Any)); err != nil {
			t.Fatal(err)
		}
	}
	store("good-once", `{"v":9,"body":{"key":"good-once","version":7,"new_field":{"kept":1}}}`)
	store("from-the-future", `{"v":9,"body":{"key":"from-the-future","tags":["t"],"version":7}}`)
	store("no-off", `{"v":1,"body":{"key":"no-off","type":"boolean","on":"on","off":"gone","variants":[{"name":"on","value":"true"}],"version":2}}`)
	store("bad-rule", `{"v":1,"body":{"key":"bad-rule","type":"string","on":"a","off":"b","variants":[{"name":"a","value":"\"A\""},{"name":"b","value":"\"B\""}],"rules":[{"variant":"huh"}],"version":2}}`)
	store("garbage", `\x00`)
	until(t, "the last good form stays", func() bool {
		return strings.Contains(r.do("POST", ofrepFlagPrefix+"good-once", `{}`).body, `"value":true`) && r.view.load().rev > 0
	})
	_ = good
	for key, want := range map[string]string{"good-once": "false", "from-the-future": "false", "no-off": "false", "bad-rule": `"B"`, "garbage": "false"} {
		r.kill(key)
		a := r.do("POST", ofrepFlagPrefix+key, `{}`)
		if !strings.Contains(a.body, `"value":`+want+",") || !strings.Contains(a.body, `"reason":"STATIC"`) {
			t.Errorf("%s: %s", key, a.body)
		}
	}
	item, err := r.w.store.Get(t.Context(), record.FlagKey("good-once"))
	if err != nil || !strings.Contains(string(item.Value), `"new_field":{"kept":1}`) {
		t.Errorf("the kill lost what it did not know: %s, %v", item.Value, err)
	}
}

// TestKillWinsRaces: the flag changes between the kill's reading and its commit, time after time.
func TestKillWinsRaces(t *testing.T) {
	r := newWorld(t).server()
	r.put(boolFlag("busy", 10000))
	races := 0
	r.w.mem.Fail(func(op memstore.Op) error {
		if op.Name != "commit" || races >= 30 || op.Keys[0] != record.FlagKey("busy") {
			return nil
		}
		races++
		return record.ErrConflict // as if a writer had been faster
	})
	r.kill("busy")
	if races != 30 || r.view.load().flags["busy"].def.Killed == nil {
		t.Errorf("after %d races: %+v", races, r.view.load().flags["busy"].def)
	}
}

func TestHistory(t *testing.T) {
	r := newWorld(t).server()
	f := r.put(boolFlag("a", 100))
	f.Dial = 200
	r.put(f)
	r.kill("a")
	if _, err := r.api().RestoreFlags(t.Context(), connect.NewRequest(&murmurv1.RestoreFlagsRequest{Key: "a"})); err != nil {
		t.Fatal(err)
	}
	back, err := r.api().RestoreFlagVersion(t.Context(), connect.NewRequest(&murmurv1.RestoreFlagVersionRequest{Key: "a", Restore: 1, Version: 4}))
	if err != nil || back.Msg.Flag.Dial != 100 || back.Msg.Flag.Version != 5 {
		t.Fatalf("%v, %v", back, err)
	}
	if _, err := r.api().DeleteFlag(t.Context(), connect.NewRequest(&murmurv1.DeleteFlagRequest{Key: "a", Version: 5})); err != nil {
		t.Fatal(err)
	}
	if again := r.put(boolFlag("a", 1)); again.Version != 7 {
		t.Errorf("made again at version %d: clients would take it for older than what they hold", again.Version)
	}
	list, err := r.api().ListFlagVersions(t.Context(), connect.NewRequest(&murmurv1.ListFlagVersionsRequest{Key: "a", Limit: 6}))
	if err != nil {
		t.Fatal(err)
	}
	var whats []string
	for _, v := range list.Msg.Versions {
		whats = append(whats, v.What)
	}
	if diff := cmp.Diff([]string{"put", "delete", "put", "restore", "kill", "put"}, whats); diff != "" {
		t.Error(diff)
	}
	last := list.Msg.Versions[5]
	if len(last.Changes) != 1 || last.Changes[0].Path != "dial" || last.Changes[0].Before != "100" {
		t.Errorf("changes %v", last.Changes)
	}
	audit, _, err := r.w.store.List(t.Context(), record.KindAudit, "")
	if err != nil {
		t.Fatal(err)
	}
	acts := 0
	for _, item := range audit {
		if a, err := record.Decode[record.Audit](item.Value); err == nil && strings.HasPrefix(a.What, "flag.") {
			acts++
		}
	}
	if acts != 7 {
		t.Errorf("%d audit records for 7 versions", acts)
	}
}

func TestSegments(t *testing.T) {
	r := newWorld(t).server()
	seg := r.putSegment(&murmurv1.FlagSegment{Key: "staff", Included: []string{"u1"}})
	f := boolFlag("a", 0)
	f.Rules = []*murmurv1.FlagRule{{Variant: "on", Clauses: []*murmurv1.FlagClause{{Op: "segment", ValuesJson: []string{`"staff"`}}}}}
	r.put(f)
	eval := func(unit string) string {
		resp, err := r.api().EvaluateFlag(t.Context(), connect.NewRequest(&murmurv1.EvaluateFlagRequest{Key: "a", TargetingKey: unit, AttributesJson: `{"x":1}`}))
		if err != nil {
			t.Fatal(err)
		}
		return resp.Msg.Variant + " " + resp.Msg.Reason
	}
	if eval("u1") != "on TARGETING_MATCH" || eval("u2") != "off STATIC" {
		t.Errorf("%s, %s", eval("u1"), eval("u2"))
	}
	if _, err := r.api().PutSegment(t.Context(), connect.NewRequest(&murmurv1.PutSegmentRequest{Segment: &murmurv1.FlagSegment{Key: "staff"}})); connect.CodeOf(err) != connect.CodeAborted {
		t.Errorf("an old version: %v", err)
	}
	seg.Included = []string{"u2"}
	seg = r.putSegment(seg)
	if eval("u1") != "off STATIC" || eval("u2") != "on TARGETING_MATCH" {
		t.Errorf("%s, %s", eval("u1"), eval("u2"))
	}
	drop := connect.NewRequest(&murmurv1.DeleteSegmentRequest{Key: "staff", Version: seg.Version})
	if _, err := r.api().DeleteSegment(t.Context(), drop); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("deleting a segment in use: %v", err)
	}
	if _, err := r.api().DeleteFlag(t.Context(), connect.NewRequest(&murmurv1.DeleteFlagRequest{Key: "a", Version: 1})); err != nil {
		t.Fatal(err)
	}
	if _, err := r.api().DeleteSegment(t.Context(), drop); err != nil {
		t.Error(err)
	}
	list, err := r.api().ListSegments(t.Context(), connect.NewRequest(&murmurv1.ListSegmentsRequest{}))
	if err != nil || len(list.Msg.Segments) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestDeleteKeepsPrerequisites(t *testing.T) {
	r := newWorld(t).server()
	base := r.put(boolFlag("base", 0))
	needs := boolFlag("needs", 0)
	needs.Prerequisites = []*murmurv1.FlagPrerequisite{{Flag: "base", Variants: []string{"on"}}}
	r.put(needs)
	_, err := r.api().DeleteFlag(t.Context(), connect.NewRequest(&murmurv1.DeleteFlagRequest{Key: "base", Version: base.Version}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), "needs") {
		t.Errorf("%v", err)
	}
}

// TestRoles: who may only read cannot write.
func TestRoles(t *testing.T) {
	r := newWorld(t).server(func(c *Config) { c.pace.trusted = time.Nanosecond })
	ctx := identity.WithCaller(t.Context(), identity.Caller{Name: "root", User: "root", Role: identity.Admin})
	token, made, err := r.cfg.Authority.CreateToken(ctx, "app", identity.Viewer, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.put(boolFlag("a", 0))
	r.w.token = token
	if a := r.do("GET", "/v1/snapshot", ""); a.status != 200 {
		t.Errorf("a viewer reads: %d", a.status)
	}
	if err := r.tryPut(boolFlag("b", 0)); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("a viewer writes: %v", err)
	}
	if err := r.cfg.Authority.RevokeToken(ctx, made.ID); err != nil {
		t.Fatal(err)
	}
	if a := r.do("GET", "/v1/snapshot", ""); a.status != 401 {
		t.Errorf("a revoked token reads: %d", a.status)
	}
	r.w.mem.Fail(unavailable)
	if a := r.do("GET", "/v1/snapshot", ""); a.status == 200 {
		t.Errorf("a revoked token reads while the store is away: %d", a.status)
	}
	r.w.mem.Fail(nil)
}
