package feature

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/dial"
)

func TestChanged(t *testing.T) {
	needs := func(key, other string) Flag {
		return boolFlag(key, dial.Full, func(f *Flag) { f.Prerequisites = []Prerequisite{{other, []string{"on"}}} })
	}
	seg := Segment{Key: "s", Included: []string{"ann"}}
	s := mustCompile(t, []Flag{boolFlag("a", 1), needs("b", "a"), needs("c", "b"), boolFlag("d", 1)}, seg)
	with := func(flags []Flag, segments []Segment, drop ...string) *Set {
		next, err := s.With(flags, segments, drop, nil)
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	for name, tt := range map[string]struct {
		next *Set
		want []string
	}{
		"nothing":                          {s, nil},
		"the same definition again":        {with([]Flag{boolFlag("a", 1), needs("b", "a")}, []Segment{seg}), nil},
		"one flag and those who need it":   {with([]Flag{boolFlag("a", 2)}, nil), []string{"a", "b", "c"}},
		"one that nobody needs":            {with([]Flag{boolFlag("d", 2)}, nil), []string{"d"}},
		"one more":                         {with([]Flag{boolFlag("e", 2)}, nil), []string{"e"}},
		"one less":                         {with(nil, nil, "b"), []string{"b", "c"}},
		"a segment":                        {with(nil, []Segment{{Key: "s"}}), []string{"a", "b", "c", "d"}},
		"one more segment and a flag less": {with(nil, []Segment{{Key: "t"}}, "d"), []string{"a", "b", "c", "d"}},
	} {
		if d := cmp.Diff(tt.want, tt.next.Changed(s)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	if d := cmp.Diff([]Segment{seg}, s.Segments()); d != "" {
		t.Error(d)
	}
}
