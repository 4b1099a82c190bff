package darkmode

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/murmuration/murmuration/darkmode/darkmodetest"
	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
)

// drawFlags draws a set with flags of every type, with and without what makes a plan less than simple.
func drawFlags(t *rapid.T) []feature.Flag {
	values := map[feature.Type][2]any{
		feature.Boolean: {true, false}, feature.String: {"x", "y"}, feature.Number: {7, 2.5}, feature.Object: {map[string]any{"a": 1.0}, []any{}},
	}
	flags := []feature.Flag{darkmodetest.Bool("parent", 5000), darkmodetest.Mode("m", feature.ModeStatic)}
	for typ, v := range values {
		for i, extra := range []func(*feature.Flag){
			func(*feature.Flag) {},
			func(f *feature.Flag) { f.Killed = &feature.Kill{} },
			func(f *feature.Flag) { f.Overrides = map[string]string{"u1": "off", "u2": "on"} },
			func(f *feature.Flag) { f.Unit = "host" },
			func(f *feature.Flag) {
				f.Prerequisites = []feature.Prerequisite{{Flag: "parent", Variants: []string{"on"}}}
			},
			func(f *feature.Flag) {
				f.Rules = []feature.Rule{{Variant: "on", Clauses: []feature.Clause{{Attribute: "plan", Op: feature.OpIn, Values: raw(`"pro"`)}}}}
			},
			func(f *feature.Flag) {
				f.Schedule = &feature.Schedule{Stages: []feature.Stage{{At: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), Dial: 3000}}}
			},
		} {
			d := dial.Dial(rapid.SampledFrom([]int{0, 1, 5000, 9999, 10000}).Draw(t, "dial"))
			flags = append(flags, darkmodetest.Flag(fmt.Sprintf("%s-%d", typ, i), typ, d, v[0], v[1], extra))
		}
	}
	return flags
}

// TestAllWaysOfReadingAgree compares reads by key, with a context, by handle and in detail with the set's own answer.
func TestAllWaysOfReadingAgree(t *testing.T) {
	base := map[string]any{"host": "h1"}
	rapid.Check(t, func(t *rapid.T) {
		flags := drawFlags(t)
		c := New(Config{Bootstrap: darkmodetest.Bootstrap(flags...), Attributes: base})
		set, err := feature.Compile(flags, nil)
		if err != nil {
			t.Fatal(err)
		}
		unit := rapid.SampledFrom([]string{"", "u1", "u2", "u3", "u4", "u5"}).Draw(t, "unit")
		ctx := &feature.Context{TargetingKey: unit}
		if rapid.Bool().Draw(t, "attributes") {
			ctx.Attributes = map[string]any{"plan": "pro", "host": "h2"}
		}
		for key := range set.Keys() {
			full := *ctx
			full.Base = base
			want := set.Evaluate(key, &full, time.Now())
			agree(t, c, key, ctx, true, want, pickBool, c.Bool, c.BoolCtx, c.BoolDetail, &c.BoolFlag(key, true).Flag)
			agree(t, c, key, ctx, "def", want, pickString, c.String, c.StringCtx, c.StringDetail, c.StringFlag(key, "def"))
			agree(t, c, key, ctx, -1, want, pickInt, c.Int, c.IntCtx, c.IntDetail, c.IntFlag(key, -1))
			agree(t, c, key, ctx, -1, want, pickFloat, c.Float, c.FloatCtx, c.FloatDetail, c.FloatFlag(key, -1))
			agree(t, c, key, ctx, "def", want, pickObject, c.Object, c.ObjectCtx, c.ObjectDetail, c.ObjectFlag(key, "def"))
			if f, _ := set.Flag(key); f.Type == feature.Boolean && ctx.Attributes == nil {
				h := c.BoolFlag(key, true)
				if got := c.Bool(key, unit, true); h.On(unit) != got || h.OnCtx(ctx) != got {
					t.Fatalf("%s: On differs", key)
				}
			}
		}
	})
}

func agree[T any](t *rapid.T, c *Client, key string, ctx *feature.Context, def T, want feature.Resolution, p pick[T],
	byKey func(string, string, T) T, byCtx func(string, *feature.Context, T) T, detail func(string, *feature.Context, T) Detail[T], handle *Flag[T]) {
	t.Helper()
	expect, code := def, want.Code
	if code == "" {
		v, ok := p(want.Type, want.Value)
		if expect = v; !ok {
			expect, code = def, TypeMismatch
		}
	}
	got := map[string]T{"ctx": byCtx(key, ctx, def), "handle ctx": handle.GetCtx(ctx)}
	d := detail(key, ctx, def)
	got["detail"], got["handle detail"] = d.Value, handle.Detail(ctx).Value
	if ctx.Attributes == nil {
		got["key"], got["handle"] = byKey(key, ctx.TargetingKey, def), handle.Get(ctx.TargetingKey)
	}
	for way, v := range got {
		if !cmp.Equal(v, expect) {
			t.Fatalf("%s read by %s is %v, want %v (%+v)", key, way, v, expect, want)
		}
	}
	if d.Code != code || code == "" && (d.Variant != want.Variant || d.Reason != want.Reason || d.Killed != want.Killed) || handle.Key() != key {
		t.Fatalf("detail %+v, want %+v", d, want)
	}
}

func TestNilContextIsNobody(t *testing.T) {
	c := New(Config{Bootstrap: darkmodetest.Bootstrap(on("full"), darkmodetest.Bool("half", 5000))})
	if !c.BoolCtx("full", nil, false) || c.BoolCtx("nowhere", nil, false) || c.BoolDetail("half", nil, true).Code != feature.TargetingKeyMissing {
		t.Error("a nil context is not nobody")
	}
}

// TestHandleFollowsItsFlag: before the flag exists, while it does, as another type, and after.
func TestHandleFollowsItsFlag(t *testing.T) {
	c := New(Config{})
	h := c.BoolFlag("f", false)
	if h.On("u") || h.Detail(nil).Code != NotReady {
		t.Error("something from nothing")
	}
	text := darkmodetest.Flag("f", feature.String, dial.Full, "x", "y")
	for i, step := range []struct {
		flags []feature.Flag
		want  bool
		code  feature.ErrorCode
	}{
		{[]feature.Flag{on("f")}, true, ""}, {[]feature.Flag{text}, false, TypeMismatch}, {[]feature.Flag{on("f")}, true, ""}, {nil, false, feature.FlagNotFound},
	} {
		c.replace(snapshot{Revision: uint64(i + 1), Flags: step.flags}, FromServer)
		if got, d := h.On("u"), h.Detail(&feature.Context{TargetingKey: "u"}); got != step.want || d.Value != step.want || d.Code != step.code {
			t.Errorf("step %d: %v, %+v", i, got, d)
		}
	}
}

// TestUnwritableCopy: Close says why, and the state lives on in memory.
func TestUnwritableCopy(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	srv := darkmodetest.New(t, on("a"))
	cfg := fast(srv.URL)
	cfg.CopyFile = filepath.Join(file, "flags") // below a file
	c := New(cfg)
	c.Start(t.Context())
	waitReady(t, c)
	wantBool(t, c, "a", true)
	if err := c.Close(); err == nil {
		t.Error("Close says nothing of the copy that could not be written")
	}
}

func TestNamesOfSources(t *testing.T) {
	if got := fmt.Sprint(FromDefaults, FromBootstrap, FromDisk, FromServer, Source(9)); got != "defaults bootstrap disk server source 9" {
		t.Error(got)
	}
	if age, ok := (Status{}).Age(time.Now()); ok || age != 0 {
		t.Errorf("a state that no server confirmed has the age %v", age)
	}
}
