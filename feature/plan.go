package feature

import (
	"time"

	"github.com/murmuration/murmuration/dial"
)

// Plan is what is left of a flag when everything that does not depend on the caller has been decided, until
// Until. A client keeps one for each flag that it reads often: asking a plan costs a hash, or nothing.
type Plan struct {
	// On and Off are the outcomes within and outside Dial. Both are nil for a plan that is not Simple.
	On, Off *Outcome
	// Dial is the flag's dial at this time, [dial.Off] for a flag that is killed.
	Dial dial.Dial
	// Salted holds the flag's salt, to hash units with.
	Salted dial.Salted
	// Simple says that the targeting key alone decides: [Plan.Decide] answers as [Set.Evaluate] would. Otherwise
	// there are rules, overrides, prerequisites or another unit, and only the set can tell.
	Simple bool
	// Killed says that a kill decides.
	Killed bool
	// Timeless says that no schedule has a say, not even through a prerequisite.
	Timeless bool
	// Until is when the schedule moves the dial next; zero when it never will.
	Until time.Time
}

// Plan reduces a flag at a time, and reports whether the set has it. The plan holds from now to Until; a clock
// set back to before now needs a new one.
func (s *Set) Plan(key string, now time.Time) (Plan, bool) {
	c, ok := s.flags[key]
	if !ok {
		return Plan{}, false
	}
	if c.def.Killed != nil {
		return Plan{On: c.on, Off: c.off, Dial: dial.Off, Simple: true, Killed: true, Timeless: true}, true
	}
	p := Plan{Dial: c.def.DialAt(now), Salted: c.salted, Timeless: c.def.Schedule == nil && len(c.prereqs) == 0}
	p.Until, _ = c.def.NextChange(now)
	if c.override == nil && len(c.prereqs) == 0 && len(c.rules) == 0 && c.byKey {
		p.On, p.Off, p.Simple = c.on, c.off, true
	}
	return p, true
}

// Decide answers a Simple plan for one unit. It is nil when the flag is split and unit is "".
func (p *Plan) Decide(unit string) *Outcome {
	switch {
	case p.Dial == dial.Off:
		return p.Off
	case p.Dial >= dial.Full:
		return p.On
	case unit == "":
		return nil
	case p.Dial.Has(p.Salted.Hash(unit)):
		return p.On
	}
	return p.Off
}

// Outcomes lists a flag's variants in the order of its definition; nil when the set has no such flag. The
// receiver must not change them.
func (s *Set) Outcomes(key string) []Outcome {
	if c, ok := s.flags[key]; ok {
		return c.outcomes
	}
	return nil
}

// Decide is [Set.Evaluate] for callers who need no more than the outcome; nil when there is no such flag or it
// needs a unit that the caller does not have.
func (s *Set) Decide(key string, ctx *Context, now time.Time) *Outcome {
	c, ok := s.flags[key]
	if !ok {
		return nil
	}
	out, _ := s.evaluate(c, ctx, now, 0)
	return out
}
