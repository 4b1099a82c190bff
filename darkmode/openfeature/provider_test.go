package openfeature_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	of "github.com/open-feature/go-sdk/openfeature"

	"github.com/murmuration/murmuration/darkmode"
	"github.com/murmuration/murmuration/darkmode/darkmodetest"
	provider "github.com/murmuration/murmuration/darkmode/openfeature"
	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
)

const deadline = 10 * time.Second

// sdk registers a provider under the test's own domain and returns the SDK's client.
func sdk(t *testing.T, p *provider.Provider) *of.Client {
	t.Helper()
	if err := of.SetNamedProviderAndWait(t.Name(), p); err != nil {
		t.Fatal(err)
	}
	return of.NewClient(t.Name())
}

func testFlags() []feature.Flag {
	return []feature.Flag{
		darkmodetest.Bool("full", dial.Full), darkmodetest.Bool("half", 5000),
		darkmodetest.Bool("killed", dial.Full, func(f *feature.Flag) { f.Killed = &feature.Kill{By: "olga"} }),
		darkmodetest.Bool("by-plan", dial.Off, func(f *feature.Flag) {
			f.Rules = []feature.Rule{{Variant: "on", Clauses: []feature.Clause{{Attribute: "plan", Op: feature.OpIn, Values: []json.RawMessage{json.RawMessage(`"pro"`)}}}}}
		}),
		darkmodetest.Flag("text", feature.String, dial.Full, "blue", "red"), darkmodetest.Mode("mode", feature.ModeStatic),
		darkmodetest.Flag("int", feature.Number, dial.Full, 7, 0), darkmodetest.Flag("float", feature.Number, dial.Full, 2.5, 0.5),
		darkmodetest.Flag("object", feature.Object, dial.Full, map[string]any{"a": []any{1.0}}, map[string]any{}),
	}
}

// TestConformance asks through the SDK, as an application would.
func TestConformance(t *testing.T) {
	c := darkmode.New(darkmode.Config{Bootstrap: darkmodetest.Bootstrap(testFlags()...)})
	client, ctx := sdk(t, provider.New(c)), t.Context()
	ann := of.NewEvaluationContext("ann", map[string]any{"plan": "pro"})
	nobody := of.NewEvaluationContext("", nil)
	inHalf := dial.Dial(5000).On("half", "ann")
	type answer struct {
		Value   any
		Variant string
		Reason  of.Reason
		Code    of.ErrorCode
	}
	ask := func(kind, flag string, ec of.EvaluationContext) answer {
		switch kind {
		case "bool":
			d, _ := client.BooleanValueDetails(ctx, flag, true, ec)
			return answer{d.Value, d.Variant, d.Reason, d.ErrorCode}
		case "string":
			d, _ := client.StringValueDetails(ctx, flag, "def", ec)
			return answer{d.Value, d.Variant, d.Reason, d.ErrorCode}
		case "int":
			d, _ := client.IntValueDetails(ctx, flag, -1, ec)
			return answer{d.Value, d.Variant, d.Reason, d.ErrorCode}
		case "float":
			d, _ := client.FloatValueDetails(ctx, flag, -1, ec)
			return answer{d.Value, d.Variant, d.Reason, d.ErrorCode}
		}
		d, _ := client.ObjectValueDetails(ctx, flag, "def", ec)
		return answer{d.Value, d.Variant, d.Reason, d.ErrorCode}
	}
	for _, tt := range []struct {
		name, kind, flag string
		ec               of.EvaluationContext
		want             answer
	}{
		{"static", "bool", "full", nobody, answer{true, "on", of.StaticReason, ""}},
		{"split", "bool", "half", ann, answer{inHalf, map[bool]string{true: "on", false: "off"}[inHalf], of.SplitReason, ""}},
		{"targeting match", "bool", "by-plan", ann, answer{true, "on", of.TargetingMatchReason, ""}},
		{"a kill is a value, not DISABLED", "bool", "killed", ann, answer{false, "off", of.StaticReason, ""}},
		{"text", "string", "text", ann, answer{"blue", "on", of.StaticReason, ""}},
		{"mode", "string", "mode", nobody, answer{"static", "static", of.StaticReason, ""}},
		{"int", "int", "int", ann, answer{int64(7), "on", of.StaticReason, ""}},
		{"a float takes an int", "float", "int", ann, answer{7.0, "on", of.StaticReason, ""}},
		{"float", "float", "float", ann, answer{2.5, "on", of.StaticReason, ""}},
		{"object", "object", "object", ann, answer{map[string]any{"a": []any{1.0}}, "on", of.StaticReason, ""}},
		{"flag not found", "bool", "nope", ann, answer{true, "", of.ErrorReason, of.FlagNotFoundCode}},
		{"targeting key missing", "bool", "half", nobody, answer{true, "", of.ErrorReason, of.TargetingKeyMissingCode}},
		{"text read as bool", "bool", "text", ann, answer{true, "", of.ErrorReason, of.TypeMismatchCode}},
		{"bool read as text", "string", "full", ann, answer{"def", "", of.ErrorReason, of.TypeMismatchCode}},
		{"float read as int", "int", "float", ann, answer{int64(-1), "", of.ErrorReason, of.TypeMismatchCode}},
		{"text read as object", "object", "text", ann, answer{"def", "", of.ErrorReason, of.TypeMismatchCode}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, ask(tt.kind, tt.flag, tt.ec)); d != "" {
				t.Error(d)
			}
		})
	}
	d, err := client.BooleanValueDetails(ctx, "killed", true, ann)
	want := of.FlagMetadata{"version": int64(1), "revision": int64(1), "source": "bootstrap", "killed": true}
	if diff := cmp.Diff(want, d.FlagMetadata); diff != "" || err != nil {
		t.Errorf("metadata %s, %v", diff, err)
	}
	if got := client.Metadata().Domain(); got != t.Name() {
		t.Errorf("domain %q", got)
	}
}

// events records the SDK's events of one type.
func events(client *of.Client, kind of.EventType) <-chan of.EventDetails {
	ch := make(chan of.EventDetails, 64)
	callback := func(d of.EventDetails) { ch <- d }
	client.AddHandler(kind, &callback)
	return ch
}

func next(t *testing.T, what string, ch <-chan of.EventDetails) of.EventDetails {
	t.Helper()
	select {
	case d := <-ch:
		return d
	case <-time.After(deadline):
		t.Fatalf("no event %s", what)
		return of.EventDetails{}
	}
}

// TestEvents goes through the life of a provider: ready, changed, stale, ready again.
func TestEvents(t *testing.T) {
	srv := darkmodetest.New(t, testFlags()...)
	c := darkmode.New(darkmode.Config{
		Servers: []string{srv.URL}, StaleAfter: 50 * time.Millisecond, MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond, ReportInterval: -1,
	})
	c.Start(t.Context())
	defer c.Close()
	client := sdk(t, provider.New(c))
	changed, stale, ready := events(client, of.ProviderConfigChange), events(client, of.ProviderStale), events(client, of.ProviderReady)
	next(t, "ready", ready) // the handler of a state that holds is called at once
	srv.Put(darkmodetest.Bool("full", dial.Off))
	for d := next(t, "changed", changed); !cmp.Equal(d.FlagChanges, []string{"full"}); d = next(t, "changed", changed) {
		t.Log("an earlier change", d.FlagChanges) // the first state itself
	}
	srv.SetBroken(true)
	srv.DropStreams()
	next(t, "stale", stale)
	for len(ready) > 0 {
		<-ready
	}
	srv.SetBroken(false)
	next(t, "ready again", ready)
	if client.State() != of.ReadyState && client.State() != of.StaleState { // it is silent again after 50 ms
		t.Errorf("state %s", client.State())
	}
}

// TestWithoutAnyState: Init says NOT_READY in time, evaluations give defaults, ERROR is told, READY follows.
func TestWithoutAnyState(t *testing.T) {
	srv := darkmodetest.New(t, testFlags()...)
	srv.SetBroken(true)
	c := darkmode.New(darkmode.Config{Servers: []string{srv.URL}, MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond, ReportInterval: -1})
	c.Start(t.Context())
	defer c.Close()
	p := provider.New(c)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := p.InitWithContext(ctx, of.EvaluationContext{})
	if init, ok := errors.AsType[*of.ProviderInitError](err); !ok || init.ErrorCode != of.ProviderNotReadyCode {
		t.Fatalf("Init: %v", err)
	}
	if d := p.BooleanEvaluation(t.Context(), "full", false, nil); d.Value || d.ResolutionDetail().ErrorCode != of.ProviderNotReadyCode {
		t.Errorf("before any state: %+v", d)
	}
	wait := func(kind of.EventType) {
		t.Helper()
		limit := time.After(deadline)
		for {
			select {
			case e := <-p.EventChannel():
				if e.EventType == kind {
					return
				}
			case <-limit:
				t.Fatalf("no %s", kind)
			}
		}
	}
	wait(of.ProviderError)
	srv.SetBroken(false)
	wait(of.ProviderReady)
	if d := p.BooleanEvaluation(t.Context(), "full", false, nil); !d.Value {
		t.Errorf("after the first state: %+v", d)
	}
	p.Shutdown()
	p.Shutdown()
}

// TestSlowSDKLosesNoFlag: changes that find no room are named later.
func TestSlowSDKLosesNoFlag(t *testing.T) {
	srv := darkmodetest.New(t)
	c := darkmode.New(darkmode.Config{Servers: []string{srv.URL}, ReportInterval: -1})
	p := provider.New(c)
	if err := p.InitWithContext(startedContext(t, c), of.EvaluationContext{}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := make(chan struct{})
	last := uint64(0)
	cancel := c.Subscribe(func(e darkmode.Event) {
		if e.Status.Revision == 210 {
			close(done)
		}
	})
	defer cancel()
	for i := range 200 {
		last = srv.Put(darkmodetest.Bool(string(rune('a'+i%26))+"x", dial.Dial(i)))
	}
	if last != 210 {
		t.Fatalf("last revision %d", last)
	}
	<-done
	for range 64 {
		<-p.EventChannel()
	}
	srv.Put(darkmodetest.Bool("final", 1))
	seen := map[string]bool{}
	for !seen["final"] {
		for _, key := range (<-p.EventChannel()).FlagChanges {
			seen[key] = true
		}
	}
	if len(seen) != 27 {
		t.Errorf("%d flags named, want 27", len(seen))
	}
}

func startedContext(t *testing.T, c *darkmode.Client) context.Context {
	c.Start(t.Context())
	return t.Context()
}

func BenchmarkProvider(b *testing.B) {
	p := provider.New(darkmode.New(darkmode.Config{Bootstrap: darkmodetest.Bootstrap(testFlags()...)}))
	fc := of.FlattenedContext{of.TargetingKey: "user-1234567"}
	b.ReportAllocs()
	for b.Loop() {
		p.BooleanEvaluation(b.Context(), "half", false, fc)
	}
}
