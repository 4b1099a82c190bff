package feature

import (
	"slices"
	"strconv"
	"time"

	"github.com/murmuration/murmuration/dial"
)

// maxDepth bounds how deep prerequisites are followed; a set has no cycles, so this only bounds the cost.
const maxDepth = 16

// Evaluate answers one flag for one caller at one time. It allocates nothing unless the unit
// is a number.
func (s *Set) Evaluate(key string, ctx *Context, now time.Time) Resolution {
	c, ok := s.flags[key]
	if !ok {
		return Resolution{Key: key, Reason: ErrorReason, Code: FlagNotFound, Detail: "no flag has this key"}
	}
	out, why := s.evaluate(c, ctx, now, 0)
	r := Resolution{Key: c.def.Key, Reason: reasons[why], Version: c.def.Version, Type: c.def.Type}
	if out == nil {
		r.Code, r.Detail = TargetingKeyMissing, c.missingUnit()
		return r
	}
	r.Variant, r.Value, r.Killed = out.Variant, out.Value, why == whyKilled
	return r
}

// why is why an outcome was chosen, in one byte; the [Reason] is made of it only where somebody reads it.
type why uint8

const (
	whyStatic why = iota
	whyKilled
	whyMatch
	whySplit
	whyNoUnit // there is no outcome
)

var reasons = [...]Reason{whyStatic: Static, whyKilled: Static, whyMatch: TargetingMatch, whySplit: Split, whyNoUnit: ErrorReason}

// evaluate decides. The outcome is nil when the flag needs a unit and the caller has none.
func (s *Set) evaluate(c *compiled, ctx *Context, now time.Time, depth int) (*Outcome, why) {
	if c.def.Killed != nil {
		return c.off, whyKilled
	}
	if c.override != nil {
		if unit, ok := c.unit(ctx); ok {
			if out, ok := c.override[unit]; ok {
				return out, whyMatch
			}
		}
	}
	if !s.prerequisitesHold(c, ctx, now, depth) {
		return c.off, whyMatch
	}
	for i := range c.rules {
		if r := &c.rules[i]; all(r.clauses, ctx, s.segments) {
			if r.dial < 0 {
				return r.out, whyMatch
			}
			return c.turn(dial.Dial(r.dial), r.out, ctx, whyMatch)
		}
	}
	return c.turn(c.def.DialAt(now), c.on, ctx, whyStatic)
}

// turn asks a dial. whole is the reason when nothing is split.
func (c *compiled) turn(d dial.Dial, on *Outcome, ctx *Context, whole why) (*Outcome, why) {
	switch {
	case d == dial.Off:
		return c.off, whole
	case d >= dial.Full:
		return on, whole
	}
	unit, ok := c.unit(ctx)
	switch {
	case !ok:
		return nil, whyNoUnit
	case d.Has(c.salted.Hash(unit)):
		return on, whySplit
	}
	return c.off, whySplit
}

func (c *compiled) missingUnit() string {
	if c.byKey {
		return "the flag is split and the context has no targetingKey"
	}
	return "the flag is split by an attribute that the context does not have: " + c.def.Unit
}

// unit is what the flag buckets by, and whether the caller has one.
func (c *compiled) unit(ctx *Context) (string, bool) {
	if c.byKey {
		return ctx.TargetingKey, ctx.TargetingKey != ""
	}
	value, _ := ctx.attribute(c.def.Unit)
	switch v := value.(type) {
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
		out, _ := s.evaluate(other, ctx, now, depth+1)
		if out == nil || !slices.Contains(p.variants, out.Variant) {
			return false
		}
	}
	return true
}
