package feature

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/dial"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func boolFlag(key string, d dial.Dial, change ...func(*Flag)) Flag {
	f := Flag{
		Key: key, Type: Boolean, On: "on", Off: "off", Dial: d, Version: 7,
		Variants: []Variant{{"on", json.RawMessage(`true`)}, {"off", json.RawMessage(`false`)}},
	}
	for _, c := range change {
		c(&f)
	}
	return f
}

func raws(values ...any) []json.RawMessage {
	var out []json.RawMessage
	for _, v := range values {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		out = append(out, b)
	}
	return out
}

func mustCompile(t testing.TB, flags []Flag, segments ...Segment) *Set {
	t.Helper()
	s, err := Compile(flags, segments)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEvaluate(t *testing.T) {
	kill := &Kill{By: "olga", Why: "INC-7", When: noon}
	beta := Segment{Key: "beta", Included: []string{"ann"}, Excluded: []string{"eve"}, AnyOf: [][]Clause{{{Attribute: "plan", Op: OpIn, Values: raws("pro")}}}}
	half := dial.Dial(5000)
	flags := []Flag{
		boolFlag("off", dial.Off), boolFlag("full", dial.Full), boolFlag("half", 5000),
		boolFlag("killed", dial.Full, func(f *Flag) { f.Killed = kill; f.Overrides = map[string]string{"ann": "on"} }),
		boolFlag("override", dial.Off, func(f *Flag) { f.Overrides = map[string]string{"ann": "on"} }),
		boolFlag("needs-full", dial.Full, func(f *Flag) { f.Prerequisites = []Prerequisite{{"full", []string{"on"}}} }),
		boolFlag("needs-killed", dial.Full, func(f *Flag) { f.Prerequisites = []Prerequisite{{"killed", []string{"on"}}} }),
		boolFlag("needs-nothing", dial.Full, func(f *Flag) { f.Prerequisites = []Prerequisite{{"gone", []string{"on"}}} }),
		boolFlag("rule", dial.Off, func(f *Flag) {
			f.Rules = []Rule{
				{Clauses: []Clause{{Attribute: "country", Op: OpIn, Values: raws("at", "de")}}, Variant: "on"},
				{Clauses: []Clause{{Op: OpSegment, Values: raws("beta")}}, Variant: "on", Dial: &half},
			}
		}),
		boolFlag("by-host", 5000, func(f *Flag) { f.Unit = "host" }),
	}
	s := mustCompile(t, flags, beta)
	user := func(key string, attrs ...any) *Context {
		c := &Context{TargetingKey: key, Attributes: map[string]any{}}
		for i := 0; i < len(attrs); i += 2 {
			c.Attributes[attrs[i].(string)] = attrs[i+1]
		}
		return c
	}
	inHalf := func(unit string) string {
		if dial.Dial(5000).On("half", unit) {
			return "on"
		}
		return "off"
	}
	for _, tt := range []struct {
		name, flag string
		ctx        *Context
		variant    string
		reason     Reason
		code       ErrorCode
	}{
		{"dial 0 hashes nothing and needs no key", "off", user(""), "off", Static, ""},
		{"dial 10000 hashes nothing and needs no key", "full", user(""), "on", Static, ""},
		{"a split flag buckets", "half", user("ann"), inHalf("ann"), Split, ""},
		{"a split flag needs a key", "half", user(""), "", ErrorReason, TargetingKeyMissing},
		{"a kill wins over an override and answers STATIC", "killed", user("ann"), "off", Static, ""},
		{"an override wins over the dial", "override", user("ann"), "on", TargetingMatch, ""},
		{"others follow the dial", "override", user("bob"), "off", Static, ""},
		{"a prerequisite that holds", "needs-full", user("ann"), "on", Static, ""},
		{"a killed prerequisite turns off what needs it", "needs-killed", user("ann"), "off", TargetingMatch, ""},
		{"a prerequisite that is gone does not hold", "needs-nothing", user("ann"), "off", TargetingMatch, ""},
		{"the first rule that matches", "rule", user("bob", "country", "at"), "on", TargetingMatch, ""},
		{"a missing attribute matches nothing", "rule", user("bob"), "off", Static, ""},
		{"an excluded caller is not in the segment", "rule", user("eve", "plan", "pro"), "off", Static, ""},
		{"a segment with a dial splits", "rule", user("ann"), map[bool]string{true: "on", false: "off"}[half.On("rule", "ann")], Split, ""},
		{"another unit than the targeting key", "by-host", user("", "host", "h1"), map[bool]string{true: "on", false: "off"}[half.On("by-host", "h1")], Split, ""},
		{"the other unit is missing", "by-host", user("ann"), "", ErrorReason, TargetingKeyMissing},
		{"an unknown flag", "nope", user("ann"), "", ErrorReason, FlagNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := s.Evaluate(tt.flag, tt.ctx, noon)
			if got.Variant != tt.variant || got.Reason != tt.reason || got.Code != tt.code {
				t.Errorf("got %q %s %s, want %q %s %s", got.Variant, got.Reason, got.Code, tt.variant, tt.reason, tt.code)
			}
			if tt.code == "" && got.Value.Bool != (tt.variant == "on") {
				t.Errorf("value %v does not belong to variant %q", got.Value.Bool, tt.variant)
			}
		})
	}
}

func TestClauses(t *testing.T) {
	ctx := &Context{TargetingKey: "user-1", Attributes: map[string]any{
		"mail": "ann@example.com", "age": 42.0, "count": 3, "beta": true, "app": "2.10.0-rc.1", "born": "2001-02-03T00:00:00Z",
		"org": map[string]any{"tier": "gold"}, "groups": []any{"dev", "ops"}, "null": nil, "a.b": "flat",
	}}
	for _, tt := range []struct {
		clause Clause
		want   bool
	}{
		{Clause{Attribute: "targetingKey", Op: OpStartsWith, Values: raws("user-")}, true},
		{Clause{Attribute: "mail", Op: OpEndsWith, Values: raws("@example.org", "@example.com")}, true},
		{Clause{Attribute: "mail", Op: OpContains, Values: raws("bob")}, false},
		{Clause{Attribute: "mail", Op: OpMatches, Values: raws(`^ann@.*\.com$`)}, true},
		{Clause{Attribute: "age", Op: OpGreaterEq, Values: raws(42)}, true},
		{Clause{Attribute: "count", Op: OpLess, Values: raws(3)}, false},
		{Clause{Attribute: "count", Op: OpIn, Values: raws(3)}, true},
		{Clause{Attribute: "count", Op: OpIn, Values: raws("3")}, false},
		{Clause{Attribute: "beta", Op: OpIn, Values: raws(true)}, true},
		{Clause{Attribute: "app", Op: OpSemverLess, Values: raws("2.10.0")}, true},
		{Clause{Attribute: "app", Op: OpSemverMore, Values: raws("2.9.0")}, true},
		{Clause{Attribute: "mail", Op: OpSemverEq, Values: raws("1.0.0")}, false},
		{Clause{Attribute: "born", Op: OpBefore, Values: raws("2010-01-01T00:00:00Z")}, true},
		{Clause{Attribute: "org.tier", Op: OpIn, Values: raws("gold")}, true},
		{Clause{Attribute: "a.b", Op: OpIn, Values: raws("flat")}, true},
		{Clause{Attribute: "groups", Op: OpIn, Values: raws("ops")}, true},
		{Clause{Attribute: "groups", Op: OpIn, Values: raws("ops"), Negate: true}, false},
		{Clause{Attribute: "gone", Op: OpIn, Values: raws("x"), Negate: true}, false},
		{Clause{Attribute: "null", Op: OpExists}, false},
		{Clause{Attribute: "gone", Op: OpExists, Negate: true}, true},
		{Clause{Attribute: "mail", Op: OpExists}, true},
	} {
		c, err := compileClause(&tt.clause)
		if err != nil {
			t.Errorf("%+v: %v", tt.clause, err)
			continue
		}
		if got := c.holds(ctx, nil); got != tt.want {
			t.Errorf("%s %s %s (negate %v) = %v, want %v", tt.clause.Attribute, tt.clause.Op, tt.clause.Values, tt.clause.Negate, got, tt.want)
		}
	}
}

func TestScheduleIsDataNotState(t *testing.T) {
	f := boolFlag("f", 100, func(f *Flag) {
		f.Schedule = &Schedule{Stages: []Stage{{noon, 1000}, {noon.Add(10 * time.Second), 2000}}}
	})
	at := func(s int) dial.Dial { return f.DialAt(noon.Add(time.Duration(s) * time.Second)) }
	if got, want := []dial.Dial{at(-1), at(0), at(5), at(10), at(99)}, []dial.Dial{100, 1000, 1000, 2000, 2000}; !cmp.Equal(got, want) {
		t.Errorf("steps: got %v, want %v", got, want)
	}
	f.Schedule.Ramp = true
	if got, want := []dial.Dial{at(-1), at(0), at(5), at(10), at(99)}, []dial.Dial{100, 1000, 1500, 2000, 2000}; !cmp.Equal(got, want) {
		t.Errorf("ramp: got %v, want %v", got, want)
	}
	for now := noon.Add(-time.Second); ; {
		next, ok := f.NextChange(now)
		if !ok {
			break
		}
		if !next.After(now) {
			t.Fatalf("next change %v is not after %v", next, now)
		}
		now = next
	}
}

func TestInvalidDefinitionsSayWhere(t *testing.T) {
	for want, change := range map[string]func(*Flag){
		`key: "-x"`:                             func(f *Flag) { f.Key = "-x" },
		`dial: 10001 is outside 0..10000`:       func(f *Flag) { f.Dial = 10001 },
		`off: "none" is not one`:                func(f *Flag) { f.Off = "none" },
		`variants[1].value: "x" is not a value`: func(f *Flag) { f.Variants[1].Value = json.RawMessage(`"x"`) },
		`variants[1].name: "on" is there twice`: func(f *Flag) { f.Variants[1].Name = "on" },
		`rules[0].clauses[0].op: "like"`: func(f *Flag) {
			f.Rules = []Rule{{Variant: "on", Clauses: []Clause{{Attribute: "a", Op: "like", Values: raws("x")}}}}
		},
		`rules[0].clauses[0].values[0]`: func(f *Flag) {
			f.Rules = []Rule{{Variant: "on", Clauses: []Clause{{Attribute: "a", Op: OpMatches, Values: raws("(")}}}}
		},
		`prerequisites[0].flag: a flag cannot`: func(f *Flag) { f.Prerequisites = []Prerequisite{{"f", []string{"on"}}} },
		`schedule.stages[1].at: is not after`:  func(f *Flag) { f.Schedule = &Schedule{Stages: []Stage{{noon, 1}, {noon, 2}}} },
		`type: "boool"`:                        func(f *Flag) { f.Type = "boool" },
		`hash_version: 2 is unknown`:           func(f *Flag) { f.HashVersion = 2 },
	} {
		f := boolFlag("f", 0, change)
		err := f.Validate()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
		if _, ok := errors.AsType[*FieldError](err); !ok {
			t.Errorf("%q: error is no FieldError", want)
		}
	}
}

func TestModeFlagsHoldOnlyModes(t *testing.T) {
	f := Flag{Key: "site", Type: Mode, On: "normal", Off: "read-only", Dial: dial.Full, Variants: []Variant{
		{"normal", json.RawMessage(`"normal"`)}, {"read-only", json.RawMessage(`"read-only"`)}, {"static", json.RawMessage(`"static"`)},
	}}
	if err := f.Validate(); err != nil {
		t.Fatal(err)
	}
	f.Variants[2].Value = json.RawMessage(`"frozen"`)
	if f.Validate() == nil {
		t.Error("a mode that does not exist was accepted")
	}
}

func TestCyclesAreRefusedAndTheLastGoodStays(t *testing.T) {
	needs := func(key, other string) Flag {
		return boolFlag(key, dial.Full, func(f *Flag) { f.Prerequisites = []Prerequisite{{other, []string{"on"}}} })
	}
	s := mustCompile(t, []Flag{boolFlag("a", dial.Full), needs("b", "a"), needs("c", "b")})
	next, err := s.With([]Flag{needs("a", "c")}, nil, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "cycle") {
		t.Fatalf("got %v, want a cycle", err)
	}
	if got := next.Evaluate("c", &Context{TargetingKey: "x"}, noon); got.Variant != "on" {
		t.Errorf("the last good definition was lost: c is %q", got.Variant)
	}
	bad := boolFlag("a", dial.Full)
	bad.On = "gone"
	if next, err = next.With([]Flag{bad}, nil, nil, nil); err == nil {
		t.Error("a broken definition was accepted")
	}
	if got := next.Evaluate("a", &Context{}, noon); got.Variant != "on" {
		t.Errorf("a broken definition replaced a good one: a is %q", got.Variant)
	}
	if err := s.Check(new(needs("d", "zzz"))); err == nil {
		t.Error("a prerequisite that does not exist was accepted")
	}
}

func TestDiff(t *testing.T) {
	a, b := boolFlag("f", 100), boolFlag("f", 200)
	b.Version, b.Tags = 8, []string{"search"}
	want := []FieldChange{{"dial", "100", "200"}, {"tags[0]", "", `"search"`}}
	if d := cmp.Diff(want, Diff(a, b)); d != "" {
		t.Error(d)
	}
	if d := Diff(a, a); d != nil {
		t.Errorf("a flag differs from itself: %v", d)
	}
}

func TestEvaluationAllocatesNothing(t *testing.T) {
	half := dial.Dial(5000)
	s := mustCompile(t, []Flag{
		boolFlag("dial", 2500),
		boolFlag("rule", 0, func(f *Flag) {
			f.Rules = []Rule{{Clauses: []Clause{{Attribute: "country", Op: OpIn, Values: raws("at")}}, Variant: "on", Dial: &half}}
		}),
	})
	ctx := &Context{TargetingKey: "user-12345", Attributes: map[string]any{"country": "at"}}
	for _, key := range []string{"dial", "rule"} {
		if n := testing.AllocsPerRun(100, func() { s.Evaluate(key, ctx, noon) }); n != 0 {
			t.Errorf("%s: %v allocations", key, n)
		}
	}
}

func BenchmarkEvaluateDial(b *testing.B) {
	s := mustCompile(b, []Flag{boolFlag("dial", 2500)})
	ctx := &Context{TargetingKey: "user-12345"}
	b.ReportAllocs()
	for b.Loop() {
		s.Evaluate("dial", ctx, noon)
	}
}

func FuzzDefinition(f *testing.F) {
	for _, flag := range []Flag{boolFlag("a", 100), boolFlag("b", 0, func(f *Flag) { f.Killed = &Kill{} })} {
		b, err := json.Marshal(flag)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"key":"x","type":"object","variants":[{"name":"v","value":{"a":[1]}}],"on":"v","off":"v","rules":[{"clauses":[{"attribute":"a.b","op":"semver_lt","values":["1.0.0"]}],"variant":"v"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var flag Flag
		if json.Unmarshal(data, &flag) != nil {
			return
		}
		s, err := Compile([]Flag{flag}, nil)
		if (flag.Validate() == nil) != (err == nil) {
			t.Fatalf("Validate and Compile disagree: %v, %v", flag.Validate(), err)
		}
		r := s.Evaluate(flag.Key, &Context{TargetingKey: "u", Attributes: map[string]any{"a": map[string]any{"b": "1.2.3"}}}, noon)
		if err == nil && r.Code == "" && r.Value == nil {
			t.Fatalf("success without a value: %+v", r)
		}
		Diff(flag, Flag{})
	})
}
