package wire_test

import (
	"encoding/json"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/wire"
)

// TestFlagThereAndBack: every field of a definition but the kill survives the way out and in.
func TestFlagThereAndBack(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	clauses := []feature.Clause{{Attribute: "country", Op: feature.OpIn, Values: []json.RawMessage{[]byte(`"at"`), []byte(`7`)}, Negate: true}}
	f := feature.Flag{
		Key: "k", Description: "d", Owner: "o", Type: feature.String, On: "a", Off: "b", Dial: 250, Unit: "host", Salt: "s",
		HashVersion: 1, Variants: []feature.Variant{{Name: "a", Value: []byte(`"A"`)}, {Name: "b", Value: []byte(`"B"`)}},
		Rules:         []feature.Rule{{Name: "r", Clauses: clauses, Variant: "a", Dial: new(dial.Dial(0))}, {Variant: "b"}},
		Overrides:     map[string]string{"u": "a"},
		Prerequisites: []feature.Prerequisite{{Flag: "p", Variants: []string{"on"}}},
		Schedule:      &feature.Schedule{Ramp: true, Stages: []feature.Stage{{At: at, Dial: 7}}},
		ExpiresAt:     at, Tags: []string{"t"}, Version: 3,
	}
	got, err := wire.ToFlag(wire.Flag(f))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f, got); diff != "" {
		t.Error(diff)
	}
	f.Killed = &feature.Kill{By: "me", Why: "it burns", When: at}
	out := wire.Flag(f)
	if out.Killed.GetWhy() != "it burns" {
		t.Errorf("killed %v", out.Killed)
	}
	if got, err = wire.ToFlag(out); err != nil || got.Killed != nil {
		t.Errorf("a written definition kills: %v, %v", got.Killed, err)
	}
	seg := feature.Segment{Key: "s", Description: "d", Included: []string{"i"}, Excluded: []string{"e"}, AnyOf: [][]feature.Clause{clauses}, Version: 2}
	back, err := wire.ToFlagSegment(wire.FlagSegment(seg))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(seg, back); diff != "" {
		t.Error(diff)
	}
}

func TestToFlagRefuses(t *testing.T) {
	for name, m := range map[string]*murmurv1.Flag{
		"nothing":       nil,
		"dial":          {Dial: 10001},
		"negative dial": {Dial: -1},
		"rule's dial":   {Rules: []*murmurv1.FlagRule{{Dial: new(int32(70000))}}},
		"stage's dial":  {Schedule: &murmurv1.FlagSchedule{Stages: []*murmurv1.FlagStage{{Dial: 65536}}}},
	} {
		if f, err := wire.ToFlag(m); !wire.Is(err, connect.CodeInvalidArgument) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	if _, err := wire.ToFlagSegment(nil); !wire.Is(err, connect.CodeInvalidArgument) {
		t.Errorf("%v", err)
	}
	// Elements that are missing, as hostile senders can make them, are no panic.
	if _, err := wire.ToFlag(&murmurv1.Flag{Rules: []*murmurv1.FlagRule{{Clauses: []*murmurv1.FlagClause{nil}}}, Variants: []*murmurv1.FlagVariant{nil}}); err != nil {
		t.Error(err)
	}
}
