package feature

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/murmuration/murmuration/dial"
)

// drawFlag draws a flag that may have any of the things that make a plan less than simple.
func drawFlag(t *rapid.T) Flag {
	return boolFlag("f", dial.Dial(rapid.IntRange(0, 10000).Draw(t, "dial")), func(f *Flag) {
		f.Salt = rapid.SampledFrom([]string{"", "s", "salt", "a-longer-salt"}).Draw(t, "salt")
		f.Unit = rapid.SampledFrom([]string{"", "", "targetingKey", "host"}).Draw(t, "unit")
		switch rapid.IntRange(0, 6).Draw(t, "extra") {
		case 0:
			f.Killed = &Kill{By: "olga"}
		case 1:
			f.Overrides = map[string]string{"u1": "on"}
		case 2:
			f.Rules = []Rule{{Variant: "on", Clauses: []Clause{{Attribute: "host", Op: OpExists}}}}
		case 3:
			f.Prerequisites = []Prerequisite{{"other", []string{"on"}}}
		case 4:
			f.Schedule = drawSchedule(t)
		}
	})
}

func drawSchedule(t *rapid.T) *Schedule {
	s := &Schedule{Ramp: rapid.Bool().Draw(t, "ramp")}
	at := noon
	for range rapid.IntRange(1, 4).Draw(t, "stages") {
		at = at.Add(time.Duration(rapid.Int64Range(1, int64(100*time.Hour)).Draw(t, "span")))
		s.Stages = append(s.Stages, Stage{at, dial.Dial(rapid.IntRange(0, 10000).Draw(t, "to"))})
	}
	return s
}

// TestPlanDecidesAsTheSetDoes: a simple plan, asked at any time before Until, answers as the set would.
func TestPlanDecidesAsTheSetDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := Compile([]Flag{drawFlag(t), boolFlag("other", 5000)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		now := noon.Add(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(500*time.Hour)).Draw(t, "now")))
		p, ok := s.Plan("f", now)
		if !ok {
			t.Fatal("the flag is not there")
		}
		later := now
		if !p.Until.IsZero() {
			later = p.Until.Add(-1)
			if later.Before(now) {
				t.Fatalf("the plan made at %v holds until %v", now, p.Until)
			}
		}
		for i := range 20 {
			ctx := &Context{TargetingKey: fmt.Sprintf("u%d", i), Attributes: map[string]any{"host": "h"}}
			if i == 0 {
				ctx.TargetingKey = ""
			}
			for _, at := range []time.Time{now, later} {
				comparePlan(t, &p, ctx, s.Evaluate("f", ctx, at))
			}
		}
	})
}

func comparePlan(t *rapid.T, p *Plan, ctx *Context, want Resolution) {
	if !p.Simple {
		if p.On != nil || p.Off != nil {
			t.Fatal("a plan that is not simple has outcomes")
		}
		return
	}
	got := p.Decide(ctx.TargetingKey)
	if (got == nil) != (want.Code != "") || got != nil && (got.Variant != want.Variant || got.Value != want.Value) || p.Killed != want.Killed {
		t.Fatalf("%q: the plan says %+v, the set %+v", ctx.TargetingKey, got, want)
	}
}

// TestNextChangeIsExact: the dial stands still until the next change, and on a ramp differs there.
func TestNextChangeIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := boolFlag("f", dial.Dial(rapid.IntRange(0, 10000).Draw(t, "dial")))
		f.Schedule = drawSchedule(t)
		now := noon.Add(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(500*time.Hour)).Draw(t, "now")))
		for range 50 {
			next, ok := f.NextChange(now)
			if !ok {
				end := f.Schedule.Stages[len(f.Schedule.Stages)-1]
				if got := f.DialAt(now.Add(1000 * time.Hour)); got != end.Dial || got != f.DialAt(now) {
					t.Fatalf("after the last change the dial goes from %d to %d", f.DialAt(now), got)
				}
				return
			}
			if !next.After(now) {
				t.Fatalf("the change after %v is at %v", now, next)
			}
			if before := f.DialAt(next.Add(-1)); before != f.DialAt(now) {
				t.Fatalf("the dial moves from %d to %d before its next change", f.DialAt(now), before)
			}
			now = next
		}
	})
}

func TestPlanOfAnUnknownFlag(t *testing.T) {
	s := mustCompile(t, []Flag{boolFlag("f", 1)})
	if _, ok := s.Plan("g", noon); ok || s.Outcomes("g") != nil {
		t.Error("a flag that is not there has a plan")
	}
	if got := s.Outcomes("f"); len(got) != 2 || got[0].Variant != "on" || got[1].Index != 1 {
		t.Errorf("outcomes %+v", got)
	}
}

// TestBaseAttributes: what is true of the surroundings counts where the caller says nothing.
func TestBaseAttributes(t *testing.T) {
	s := mustCompile(t, []Flag{
		boolFlag("host", 5000, func(f *Flag) { f.Unit = "host" }),
		boolFlag("rule", 0, func(f *Flag) {
			f.Rules = []Rule{{Clauses: []Clause{{Attribute: "at.dc", Op: OpIn, Values: raws("vie")}}, Variant: "on"}}
		}),
	})
	ctx := &Context{Base: map[string]any{"host": "h1", "at": map[string]any{"dc": "vie"}}}
	if got := s.Evaluate("host", ctx, noon); got.Code != "" || got.Value.Bool != dial.Dial(5000).On("host", "h1") {
		t.Errorf("by host: %+v", got)
	}
	if got := s.Evaluate("rule", ctx, noon); got.Variant != "on" {
		t.Errorf("by data centre: %+v", got)
	}
	ctx.Attributes = map[string]any{"at": map[string]any{"dc": "fra"}}
	if got := s.Evaluate("rule", ctx, noon); got.Variant != "off" {
		t.Errorf("the caller's own attribute did not win: %+v", got)
	}
}

func BenchmarkEvaluateRule(b *testing.B) {
	half := dial.Dial(5000)
	s := mustCompile(b, []Flag{boolFlag("rule", 0, func(f *Flag) {
		f.Rules = []Rule{{Clauses: []Clause{{Attribute: "country", Op: OpIn, Values: raws("at", "de")}}, Variant: "on", Dial: &half}}
	})})
	ctx := &Context{TargetingKey: "user-12345", Attributes: map[string]any{"country": "at"}}
	b.ReportAllocs()
	for b.Loop() {
		s.Evaluate("rule", ctx, noon)
	}
}

func BenchmarkPlanDial(b *testing.B) {
	s := mustCompile(b, []Flag{boolFlag("dial", 2500)})
	p, _ := s.Plan("dial", noon)
	b.ReportAllocs()
	for b.Loop() {
		p.Decide("user-12345")
	}
}

// BenchmarkDelta applies a change of one flag to sets of different sizes.
func BenchmarkDelta(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			flags := make([]Flag, n)
			for i := range flags {
				flags[i] = boolFlag(fmt.Sprintf("flag-%d", i), 100)
			}
			s := mustCompile(b, flags)
			for b.Loop() {
				s, _ = s.With(flags[:1], nil, nil, nil)
			}
		})
	}
}
