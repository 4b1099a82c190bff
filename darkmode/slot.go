package darkmode

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/murmuration/murmuration/feature"
)

// slot is where one flag's current plan lives. There is one for each key that was read while it existed or that a
// handle was made for.
type slot struct {
	client *Client
	key    string
	entry  atomic.Pointer[entry] // never nil
}

// entry is a plan with what reading it needs beside: immutable.
type entry struct {
	// fast says that one comparison tells all: the flag is boolean, split, and no schedule moves it.
	fast  bool
	there bool // the flag exists
	plan  feature.Plan
	typ   feature.Type
	// from and until bound the plan in Unix nanoseconds; until is 0 when it holds for ever.
	from, until int64
	counts      *counter
}

// slotOf returns the slot of a key; nil when there is none and the state has no such flag, unless made is set.
func (c *Client) slotOf(key string, made bool) *slot {
	if s, ok := c.slots.Load(key); ok {
		return s.(*slot)
	}
	if _, ok := c.state.Load().set.Flag(key); !ok && !made {
		return nil
	}
	c.applyMu.Lock()
	defer c.applyMu.Unlock()
	if s, ok := c.slots.Load(key); ok {
		return s.(*slot)
	}
	s := &slot{client: c, key: key}
	s.refresh(c.state.Load(), time.Now())
	c.slots.Store(key, s)
	return s
}

// refresh plans the flag anew. The caller holds applyMu, so that an older state cannot win.
func (s *slot) refresh(st *state, now time.Time) {
	s.entry.Store(s.planned(st, now))
}

func (s *slot) planned(st *state, now time.Time) *entry {
	plan, ok := st.set.Plan(s.key, now)
	if !ok {
		return &entry{}
	}
	f, _ := st.set.Flag(s.key)
	e := &entry{there: true, plan: plan, typ: f.Type, counts: s.client.usage.counter(s.key, st.set.Outcomes(s.key))}
	if !plan.Until.IsZero() {
		e.from, e.until = now.UnixNano(), plan.Until.UnixNano()
	}
	e.fast = plan.Simple && plan.Dial > 0 && plan.Dial < 10000 && e.until == 0 && f.Type == feature.Boolean
	return e
}

// current returns an entry that holds now. Where a schedule has moved the dial it plans anew; one that loses the
// race to a newer state uses its own for this read.
func (s *slot) current() *entry {
	e := s.entry.Load()
	if e.until == 0 {
		return e
	}
	now := time.Now()
	if n := now.UnixNano(); n >= e.from && n < e.until {
		return e
	}
	next := s.planned(s.client.state.Load(), now)
	if !s.entry.CompareAndSwap(e, next) {
		return s.entry.Load()
	}
	return next
}

// decide answers for one caller without attributes: the outcome, or nil when there is none to give. It counts.
func (s *slot) decide(unit string) (*entry, *feature.Outcome) {
	e := s.current()
	if !e.there {
		return e, nil
	}
	if !e.plan.Simple {
		return e, s.evaluate(e, &feature.Context{TargetingKey: unit, Base: s.client.cfg.Attributes})
	}
	out := e.plan.Decide(unit)
	if out != nil {
		e.counts.add(rand.Uint32(), out.Index)
	}
	return e, out
}

// decideCtx answers for one caller with attributes.
func (s *slot) decideCtx(ctx *feature.Context) (*entry, *feature.Outcome) {
	if ctx == nil {
		return s.decide("")
	}
	e := s.current()
	if !e.there {
		return e, nil
	}
	if !e.plan.Simple {
		return e, s.evaluate(e, s.client.based(ctx))
	}
	out := e.plan.Decide(ctx.TargetingKey)
	if out != nil {
		e.counts.add(rand.Uint32(), out.Index)
	}
	return e, out
}

// evaluate asks the set, for a flag that the targeting key alone does not decide.
func (s *slot) evaluate(e *entry, ctx *feature.Context) *feature.Outcome {
	var now time.Time
	if !e.plan.Timeless {
		now = time.Now()
	}
	out := s.client.state.Load().set.Decide(s.key, ctx, now)
	if out != nil {
		e.counts.add(rand.Uint32(), out.Index)
	}
	return out
}

// based returns ctx with the process's own attributes below the caller's.
func (c *Client) based(ctx *feature.Context) *feature.Context {
	if c.cfg.Attributes == nil || ctx.Base != nil {
		return ctx
	}
	return &feature.Context{TargetingKey: ctx.TargetingKey, Attributes: ctx.Attributes, Base: c.cfg.Attributes}
}
