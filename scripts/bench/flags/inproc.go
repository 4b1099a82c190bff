package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/murmuration/murmuration/darkmode"
	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/scripts/bench/rows"
)

// The flags that are read; the others are there to make sets of a size.
const (
	dialFlag = "bench.dial" // on for 25 %
	ruleFlag = "bench.rule" // on for a country, else 25 %
)

// definitions are n flags, among them the two that are read.
func definitions(n int) []feature.Flag {
	flags := []feature.Flag{boolean(dialFlag, 2500), boolean(ruleFlag, 2500)}
	flags[1].Rules = []feature.Rule{{
		Name: "at home", Variant: "on",
		Clauses: []feature.Clause{{Attribute: "country", Op: feature.OpIn, Values: []json.RawMessage{[]byte(`"at"`), []byte(`"de"`), []byte(`"ch"`)}}},
	}}
	words := rand.New(rand.NewPCG(1, 2)) // the same on every run, and as hard to compress as real text
	for i := len(flags); i < n; i++ {
		f := boolean(fmt.Sprintf("team-%d.feature-%05d", words.IntN(20), i), dial.Dial(words.IntN(10001)))
		f.Description = fmt.Sprintf("what ticket %x asked for, see page %x of the notes on %x", words.Uint32(), words.Uint32(), words.Uint64())
		flags = append(flags, f)
	}
	return flags
}

func boolean(key string, d dial.Dial) feature.Flag {
	return feature.Flag{
		Key: key, Type: feature.Boolean, Description: "made for a benchmark", Owner: "bench", Dial: d, On: "on", Off: "off", HashVersion: dial.HashVersion,
		Variants: []feature.Variant{{Name: "on", Value: []byte("true")}, {Name: "off", Value: []byte("false")}}, Version: 1,
	}
}

// benchInProcess reads flags from a client that has its state from a bootstrap, as if a server had sent it.
func benchInProcess(_ context.Context, o options) ([]rows.Row, error) {
	var out []rows.Row
	units := make([]string, 1024)
	for i := range units {
		units[i] = fmt.Sprintf("user-%d", i*7919)
	}
	for _, n := range []int{100, 10_000} {
		state, err := json.Marshal(map[string]any{"revision": 1, "flags": definitions(n), "segments": []any{}})
		if err != nil {
			return nil, err
		}
		c := darkmode.New(darkmode.Config{Bootstrap: state})
		if got := c.Status().Flags; got != n {
			return nil, fmt.Errorf("the client has %d flags of %d: %w", got, n, c.Status().LastError)
		}
		out = append(out, readings(c, n, units, o.rounds)...)
		if err := c.Close(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// readings measures each way to read; figures are medians over the rounds.
func readings(c *darkmode.Client, n int, units []string, rounds int) []rows.Row {
	handle, rule := c.BoolFlag(dialFlag, false), c.BoolFlag(ruleFlag, false)
	home := &feature.Context{TargetingKey: units[0], Attributes: map[string]any{"country": "ch"}}
	abroad := &feature.Context{TargetingKey: units[0], Attributes: map[string]any{"country": "pt"}}
	on := 0
	count := func(b bool) {
		if b {
			on++
		}
	}
	var out []rows.Row
	for _, way := range []struct {
		name string
		read func(i int)
	}{
		{"inproc-dial", func(i int) { count(handle.On(units[i&1023])) }},
		{"inproc-dial-by-key", func(i int) { count(c.Bool(dialFlag, units[i&1023], false)) }},
		{"inproc-rule", func(int) { count(rule.OnCtx(home)) }},
		{"inproc-rule-miss", func(int) { count(rule.OnCtx(abroad)) }},
	} {
		name := way.name
		if n != 100 {
			name = fmt.Sprintf("%s-%d", name, n)
		}
		var ns, allocs []float64
		for range rounds {
			r := testing.Benchmark(func(b *testing.B) {
				for i := range b.N {
					way.read(i)
				}
			})
			ns, allocs = append(ns, float64(r.T.Nanoseconds())/float64(r.N)), append(allocs, float64(r.MemAllocs)/float64(r.N))
		}
		out = append(out,
			rows.New(name, "murmur", "ns_per_op", median(ns), "ns"),
			rows.New(name, "murmur", "allocs_per_op", median(allocs), "allocations"))
	}
	if on == 0 {
		panic("no read was on: the benchmark reads nothing")
	}
	return out
}
