package feature

import (
	"maps"
	"reflect"
	"slices"
)

// Segments lists the segments of the set in order of key, as they were compiled. The receiver must not change them.
func (s *Set) Segments() []Segment {
	out := make([]Segment, 0, len(s.segments))
	for _, key := range slices.Sorted(maps.Keys(s.segments)) {
		out = append(out, s.segments[key].def)
	}
	return out
}

// Changed lists, in order, the flags whose answers may differ from those of another set: the ones whose definition
// differs or that only one of the sets has, those that need one of them, and all when a segment differs.
func (s *Set) Changed(before *Set) []string {
	if !s.sameSegments(before) {
		all := maps.Clone(s.flags)
		maps.Copy(all, before.flags)
		return slices.Sorted(maps.Keys(all))
	}
	changed := map[string]bool{}
	needs := map[string][]string{} // prerequisite -> flags that name it
	for key, c := range s.flags {
		if !c.same(before.flags[key]) {
			changed[key] = true
		}
		for _, p := range c.prereqs {
			needs[p.flag] = append(needs[p.flag], key)
		}
	}
	for key := range before.flags {
		if s.flags[key] == nil {
			changed[key] = true
		}
	}
	for todo := slices.Collect(maps.Keys(changed)); len(todo) > 0; todo = todo[1:] {
		for _, key := range needs[todo[0]] {
			if !changed[key] {
				changed[key] = true
				todo = append(todo, key)
			}
		}
	}
	return slices.Sorted(maps.Keys(changed))
}

func (c *compiled) same(other *compiled) bool {
	return c == other || other != nil && reflect.DeepEqual(c.def, other.def)
}

func (s *Set) sameSegments(other *Set) bool {
	return maps.EqualFunc(s.segments, other.segments, func(a, b *segment) bool {
		return a == b || reflect.DeepEqual(a.def, b.def)
	})
}
