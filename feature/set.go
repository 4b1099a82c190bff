package feature

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/murmuration/murmuration/dial"
)

// Set is a compiled set of flags and segments: immutable, safe for concurrent use.
type Set struct {
	flags    map[string]*compiled
	segments map[string]*segment
	keys     []string // of flags, sorted
}

// compiled is a flag ready to be evaluated.
type compiled struct {
	def      Flag
	salted   dial.Salted
	byKey    bool // buckets by the targeting key
	outcomes []Outcome
	on, off  *Outcome
	rules    []rule
	override map[string]*Outcome
	prereqs  []prereq
}

// Outcome is one variant of a compiled flag. It is shared and read-only.
type Outcome struct {
	// Index is the variant's place in [Flag.Variants].
	Index   int
	Variant string
	Value   *Value
}

type rule struct {
	clauses []*clause
	out     *Outcome
	dial    int // -1: all
}

type prereq struct {
	flag     string
	variants []string
}

type segment struct {
	def                Segment
	included, excluded map[string]bool
	anyOf              [][]*clause
}

// Compile makes a set. Every definition that does not compile is left out and named in the joined error, so
// the set is always usable. A definition whose prerequisites form a cycle is left out too.
func Compile(flags []Flag, segments []Segment) (*Set, error) {
	return (&Set{}).With(flags, segments, nil, nil)
}

// With returns a set in which the given flags and segments replace those of the same key and the named ones
// are gone. A definition that does not compile is named in the joined error, and the set keeps what it had
// under that key: a state that does not parse never replaces one that does.
func (s *Set) With(flags []Flag, segments []Segment, dropFlags, dropSegments []string) (*Set, error) {
	next := &Set{flags: maps.Clone(s.flags), segments: maps.Clone(s.segments)}
	if next.flags == nil {
		next.flags = map[string]*compiled{}
	}
	if next.segments == nil {
		next.segments = map[string]*segment{}
	}
	for _, key := range dropFlags {
		delete(next.flags, key)
	}
	for _, key := range dropSegments {
		delete(next.segments, key)
	}
	var errs []error
	for i := range segments {
		c, err := compileSegment(&segments[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("segment %q: %w", segments[i].Key, err))
			continue
		}
		next.segments[segments[i].Key] = c
	}
	for i := range flags {
		if err := next.put(&flags[i]); err != nil {
			errs = append(errs, fmt.Errorf("flag %q: %w", flags[i].Key, err))
		}
	}
	next.keys = next.sortedKeys(s.keys)
	return next, errors.Join(errs...)
}

// sortedKeys returns the keys of all flags in order, without sorting when they are those of before.
func (s *Set) sortedKeys(before []string) []string {
	same := len(before) == len(s.flags)
	for i := 0; same && i < len(before); i++ {
		_, same = s.flags[before[i]]
	}
	if same {
		return before
	}
	return slices.Sorted(maps.Keys(s.flags))
}

// put compiles one flag into a set that is still being made.
func (s *Set) put(f *Flag) error {
	c, err := compile(f)
	if err != nil {
		return err
	}
	old, had := s.flags[f.Key]
	s.flags[f.Key] = c
	if cycle := s.cycleFrom(f.Key); cycle != nil {
		if had {
			s.flags[f.Key] = old
		} else {
			delete(s.flags, f.Key)
		}
		return &FieldError{"prerequisites", fmt.Sprintf("form a cycle: %v", cycle)}
	}
	return nil
}

// cycleFrom walks the prerequisites of a flag and returns the way back to itself, or nil.
func (s *Set) cycleFrom(key string) []string {
	if len(s.flags[key].prereqs) == 0 {
		return nil
	}
	seen := map[string]bool{}
	var walk func(at string, way []string) []string
	walk = func(at string, way []string) []string {
		c := s.flags[at]
		if c == nil || seen[at] {
			return nil
		}
		seen[at] = true
		for _, p := range c.prereqs {
			if p.flag == key {
				return append(way, at, key)
			}
			if cycle := walk(p.flag, append(slices.Clone(way), at)); cycle != nil {
				return cycle
			}
		}
		return nil
	}
	return walk(key, nil)
}

// Check reports what is wrong with a definition beside the others of the set: prerequisites that do not
// exist, name no variant of theirs or form a cycle, and segments that do not exist. Writers call it after
// [Flag.Validate].
func (s *Set) Check(f *Flag) error {
	var p problems
	for i, pre := range f.Prerequisites {
		other, ok := s.flags[pre.Flag]
		if !ok {
			p.add(fmt.Sprintf("prerequisites[%d].flag", i), "there is no flag %q", pre.Flag)
			continue
		}
		for _, name := range pre.Variants {
			if !slices.ContainsFunc(other.def.Variants, func(v Variant) bool { return v.Name == name }) {
				p.add(fmt.Sprintf("prerequisites[%d].variants", i), "flag %q has no variant %q", pre.Flag, name)
			}
		}
	}
	if _, err := s.With([]Flag{*f}, nil, nil, nil); err != nil {
		p.errs = append(p.errs, err)
	} else {
		s.checkSegments(&p, f)
	}
	return errors.Join(p.errs...)
}

func (s *Set) checkSegments(p *problems, f *Flag) {
	c, err := compile(f)
	if err != nil {
		return
	}
	for i, r := range c.rules {
		for j, cl := range r.clauses {
			for _, key := range cl.segments {
				if s.segments[key] == nil {
					p.add(fmt.Sprintf("rules[%d].clauses[%d].values", i, j), "there is no segment %q", key)
				}
			}
		}
	}
}

// Flag returns the definition of a flag as it was compiled. The receiver must not change it.
func (s *Set) Flag(key string) (Flag, bool) {
	c, ok := s.flags[key]
	if !ok {
		return Flag{}, false
	}
	return c.def, true
}

// Keys yields the keys of all flags in order.
func (s *Set) Keys() iter.Seq[string] { return slices.Values(s.keys) }

// Len is how many flags the set has.
func (s *Set) Len() int { return len(s.keys) }

// Dependents lists the flags that name key as a prerequisite: they may change when it does.
func (s *Set) Dependents(key string) []string {
	var out []string
	for _, k := range s.keys {
		if slices.ContainsFunc(s.flags[k].prereqs, func(p prereq) bool { return p.flag == key }) {
			out = append(out, k)
		}
	}
	return out
}

func compile(f *Flag) (*compiled, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	c := &compiled{def: *f, outcomes: make([]Outcome, len(f.Variants)), byKey: f.Unit == "" || f.Unit == targetingKey}
	values := make(map[string]*Outcome, len(f.Variants))
	for i, v := range f.Variants {
		value, err := compileValue(f.Type, v)
		if err != nil {
			return nil, err
		}
		c.outcomes[i] = Outcome{i, v.Name, value}
		values[v.Name] = &c.outcomes[i]
	}
	c.on, c.off, c.salted = values[f.On], values[f.Off], dial.NewSalted(cmp.Or(f.Salt, f.Key))
	for _, r := range f.Rules {
		compiledRule := rule{out: values[r.Variant], dial: -1}
		if r.Dial != nil {
			compiledRule.dial = int(*r.Dial)
		}
		var err error
		if compiledRule.clauses, err = compileClauses(r.Clauses); err != nil {
			return nil, err
		}
		c.rules = append(c.rules, compiledRule)
	}
	if len(f.Overrides) > 0 {
		c.override = make(map[string]*Outcome, len(f.Overrides))
		for unit, name := range f.Overrides {
			c.override[unit] = values[name]
		}
	}
	for _, p := range f.Prerequisites {
		c.prereqs = append(c.prereqs, prereq{p.Flag, p.Variants})
	}
	return c, nil
}

func compileClauses(clauses []Clause) ([]*clause, error) {
	out := make([]*clause, len(clauses))
	for i := range clauses {
		var err error
		if out[i], err = compileClause(&clauses[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func compileSegment(s *Segment) (*segment, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	c := &segment{def: *s, included: map[string]bool{}, excluded: map[string]bool{}}
	for _, k := range s.Included {
		c.included[k] = true
	}
	for _, k := range s.Excluded {
		c.excluded[k] = true
	}
	for _, clauses := range s.AnyOf {
		compiled, err := compileClauses(clauses)
		if err != nil {
			return nil, err
		}
		c.anyOf = append(c.anyOf, compiled)
	}
	return c, nil
}

// has reports whether the caller is in the segment; nobody is in one that does not exist.
func (s *segment) has(ctx *Context) bool {
	if s == nil || s.excluded[ctx.TargetingKey] {
		return false
	}
	if s.included[ctx.TargetingKey] {
		return true
	}
	return anyOf(s.anyOf, func(clauses []*clause) bool { return all(clauses, ctx, nil) })
}

func all(clauses []*clause, ctx *Context, segments map[string]*segment) bool {
	for _, c := range clauses {
		if !c.holds(ctx, segments) {
			return false
		}
	}
	return true
}
