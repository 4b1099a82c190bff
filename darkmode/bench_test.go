package darkmode

import (
	"fmt"
	"math/rand"
	"strconv"
	"testing"
	"time"

	"github.com/murmuration/murmuration/darkmode/darkmodetest"
	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
)

func benchFlags(n int) []feature.Flag {
	half := dial.Dial(5000)
	flags := []feature.Flag{
		darkmodetest.Bool("search.v2", 2500),
		darkmodetest.Bool("full", dial.Full),
		darkmodetest.Bool("rule", dial.Off, func(f *feature.Flag) {
			f.Rules = []feature.Rule{{Variant: "on", Dial: &half, Clauses: []feature.Clause{{Attribute: "country", Op: feature.OpIn, Values: raw(`"at"`, `"de"`)}}}}
		}),
		darkmodetest.Bool("scheduled", dial.Off, func(f *feature.Flag) {
			now := time.Now()
			f.Schedule = &feature.Schedule{Ramp: true, Stages: []feature.Stage{{At: now.Add(-time.Hour), Dial: 0}, {At: now.Add(1000 * time.Hour), Dial: 10000}}}
		}),
		darkmodetest.Flag("text", feature.String, 2500, "blue", "red"),
	}
	for i := len(flags); i < n; i++ {
		flags = append(flags, darkmodetest.Bool("flag-"+strconv.Itoa(i), 2500))
	}
	return flags
}

func benchClient(n int) *Client {
	return New(Config{Bootstrap: darkmodetest.Bootstrap(benchFlags(n)...)})
}

func TestReadsAllocateNothing(t *testing.T) {
	c := benchClient(10)
	on, full, rule, scheduled, text := c.BoolFlag("search.v2", false), c.BoolFlag("full", false), c.BoolFlag("rule", false), c.BoolFlag("scheduled", false), c.StringFlag("text", "")
	ctx := &feature.Context{TargetingKey: "user-12345", Attributes: map[string]any{"country": "at"}}
	for name, read := range map[string]func(){
		"dial flag":      func() { on.On("user-12345") },
		"full flag":      func() { full.On("user-12345") },
		"rule flag":      func() { rule.OnCtx(ctx) },
		"scheduled flag": func() { scheduled.On("user-12345") },
		"text flag":      func() { text.Get("user-12345") },
		"by key":         func() { c.Bool("search.v2", "user-12345", false) },
		"unknown":        func() { c.Bool("unknown", "user-12345", false) },
	} {
		if n := testing.AllocsPerRun(1000, read); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkInProcess(b *testing.B) {
	const unit = "user-1234567"
	ctx := &feature.Context{TargetingKey: unit, Attributes: map[string]any{"country": "at"}}
	for _, n := range []int{100, 10_000} {
		c := benchClient(n)
		on, full, rule, scheduled, text := c.BoolFlag("search.v2", false), c.BoolFlag("full", false), c.BoolFlag("rule", false), c.BoolFlag("scheduled", false), c.StringFlag("text", "")
		for _, bench := range []struct {
			name string
			read func()
		}{
			{"dial", func() { on.On(unit) }}, {"full", func() { full.On(unit) }}, {"rule", func() { rule.OnCtx(ctx) }},
			{"scheduled", func() { scheduled.On(unit) }}, {"text", func() { text.Get(unit) }}, {"by-key", func() { c.Bool("search.v2", unit, false) }},
			{"detail", func() { c.BoolDetail("search.v2", ctx, false) }},
		} {
			b.Run(fmt.Sprintf("%s/flags=%d", bench.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					bench.read()
				}
			})
		}
	}
}

// BenchmarkDial is the figure for a dial flag, without the closure that the table above adds.
func BenchmarkDial(b *testing.B) {
	on := benchClient(100).BoolFlag("search.v2", false)
	b.ReportAllocs()
	for b.Loop() {
		on.On("user-1234567")
	}
}

// BenchmarkDialParallel reads and counts one flag on all processors at once, for many units.
func BenchmarkDialParallel(b *testing.B) {
	on := benchClient(100).BoolFlag("search.v2", false)
	units := make([]string, 256)
	for i := range units {
		units[i] = fmt.Sprintf("user-%07d", i)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.Int(); pb.Next(); i++ {
			on.On(units[i%len(units)])
		}
	})
}

// BenchmarkManyHandles reads 10,000 handles in turn, so nothing stays in the nearest cache.
func BenchmarkManyHandles(b *testing.B) {
	c := benchClient(10_000)
	var handles []*BoolFlag
	for i := 5; i < 10_000; i++ {
		handles = append(handles, c.BoolFlag("flag-"+strconv.Itoa(i), false))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		handles[i%len(handles)].On("user-1234567")
		i++
	}
}

// BenchmarkApplyDelta is what one changed flag costs a client.
func BenchmarkApplyDelta(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			c := benchClient(n)
			c.BoolFlag("search.v2", false)
			rev := uint64(1)
			for b.Loop() {
				rev++
				f := darkmodetest.Bool("search.v2", dial.Dial(rev%10000))
				f.Version = rev
				c.apply(FromServer, func(s *state) (*state, error) { return s.changed(message{Revision: rev, Flags: []feature.Flag{f}}) })
			}
		})
	}
}
