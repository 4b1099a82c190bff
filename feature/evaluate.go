package feature

import (
	"slices"
	"strconv"
	"time"

	"github.com/murmuration/murmuration/dial"
)

// maxDepth bounds how deep prerequisites are followed; a set has no cycles, so this only bounds the cost.
const maxDepth = 16

// Evaluate answers one flag for one caller at one time. It allocates nothing unless a rule's attribute name
// has a dot or the unit is a number.
func (s *Set) Evaluate(key string, ctx *Context, now time.Time) Resolution {
	c, ok := s.flags[key]
	if !ok {
		return Resolution{Key: key, Reason: ErrorReason, Code: FlagNotFound, Detail: "no flag has this key"}
	}
	return s.evaluate(c, ctx, now, 0)
}

func (s *Set) evaluate(c *compiled, ctx *Context, now time.Time, depth int) Resolution {
	if c.def.Killed != nil {
		r := c.answer(c.off, Static)
		r.Killed = true
		return r
	}
	unit, hasUnit := c.unit(ctx)
	if hasUnit && c.override != nil {
		if out, ok := c.override[unit]; ok {
			return c.answer(out, TargetingMatch)
		}
	}
	if !s.prerequisitesHold(c, ctx, now, depth) {
		return c.answer(c.off, TargetingMatch)
	}
	for i := range c.rules {
		if r := &c.rules[i]; all(r.clauses, ctx, s.segments) {
			if r.dial < 0 {
				return c.answer(r.out, TargetingMatch)
			}
			return c.turn(dial.Dial(r.dial), r.out, unit, hasUnit, TargetingMatch)
		}
	}
	return c.turn(c.def.DialAt(now), c.on, unit, hasUnit, Static)
}

// turn asks a dial. whole is the reason when nothing is split.
func (c *compiled) turn(d dial.Dial, on outcome, unit string, hasUnit bool, whole Reason) Resolution {
	switch {
	case d == dial.Off:
		return c.answer(c.off, whole)
	case d >= dial.Full:
		return c.answer(on, whole)
	case !hasUnit:
		return c.missingUnit()
	case d.On(c.salt, unit):
		return c.answer(on, Split)
	}
	return c.answer(c.off, Split)
}

func (c *compiled) missingUnit() Resolution {
	r := c.answer(outcome{}, ErrorReason)
	if c.def.Unit == "" {
		r.Code, r.Detail = TargetingKeyMissing, "the flag is split and the context has no targetingKey"
	} else {
		r.Code, r.Detail = TargetingKeyMissing, "the flag is split by an attribute that the context does not have: "+c.def.Unit
	}
	return r
}

func (c *compiled) answer(out outcome, reason Reason) Resolution {
	return Resolution{Key: c.def.Key, Variant: out.variant, Value: out.value, Reason: reason, Version: c.def.Version, Type: c.def.Type}
}

// unit is what the flag buckets by, and whether the caller has one.
func (c *compiled) unit(ctx *Context) (string, bool) {
	if c.def.Unit == "" || c.def.Unit == targetingKey {
		return ctx.TargetingKey, ctx.TargetingKey != ""
	}
	switch v := ctx.Attributes[c.def.Unit].(type) {
	case string:
		return v, v != ""
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	case int:
		return strconv.Itoa(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	}
	return "", false
}

func (s *Set) prerequisitesHold(c *compiled, ctx *Context, now time.Time, depth int) bool {
	for _, p := range c.prereqs {
		other, ok := s.flags[p.flag]
		if !ok || depth >= maxDepth {
			return false
		}
		r := s.evaluate(other, ctx, now, depth+1)
		if r.Code != "" || !slices.Contains(p.variants, r.Variant) {
			return false
		}
	}
	return true
}

// DialAt is the flag's dial at a time: its schedule's, or its own before the first stage and without one.
func (f *Flag) DialAt(now time.Time) dial.Dial {
	if f.Schedule == nil {
		return f.Dial
	}
	stages := f.Schedule.Stages
	next := 0
	for next < len(stages) && !now.Before(stages[next].At) {
		next++
	}
	from := Stage{Dial: f.Dial}
	if next > 0 {
		from = stages[next-1]
	}
	if !f.Schedule.Ramp || next == 0 || next == len(stages) {
		return from.Dial
	}
	to := stages[next]
	span, gone := to.At.Sub(from.At), now.Sub(from.At)
	step := float64(int(to.Dial)-int(from.Dial)) * (float64(gone) / float64(span))
	return dial.Dial(int(from.Dial) + int(step))
}

// NextChange is when the flag's dial changes by its schedule, and whether it ever will. For a ramp it is the
// next moment its ten-thousandths step.
func (f *Flag) NextChange(now time.Time) (time.Time, bool) {
	if f.Schedule == nil || f.Killed != nil {
		return time.Time{}, false
	}
	for i, st := range f.Schedule.Stages {
		if !now.Before(st.At) {
			continue
		}
		if !f.Schedule.Ramp || i == 0 {
			return st.At, true
		}
		return f.nextStep(f.Schedule.Stages[i-1], st, now), true
	}
	return time.Time{}, false
}

func (f *Flag) nextStep(from, to Stage, now time.Time) time.Time {
	steps := int(to.Dial) - int(from.Dial)
	if steps < 0 {
		steps = -steps
	}
	if steps == 0 {
		return to.At
	}
	step := to.At.Sub(from.At) / time.Duration(steps)
	if step <= 0 {
		return to.At
	}
	next := from.At.Add((now.Sub(from.At)/step + 1) * step)
	if next.After(to.At) {
		return to.At
	}
	return next
}
