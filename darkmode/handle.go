package darkmode

import "github.com/murmuration/murmuration/feature"

// Flag is a handle on one flag: it reads without looking the flag up. Make it once, where the program starts, and
// read it anywhere. It follows the flag through changes, removal and return.
type Flag[T any] struct {
	slot *slot
	def  T
	pick pick[T]
}

// Key is the flag's.
func (f *Flag[T]) Key() string { return f.slot.key }

// Get reads the flag for a unit, which may be "" for flags that are not split.
func (f *Flag[T]) Get(unit string) T {
	e, out := f.slot.decide(unit)
	return value(e, out, f.def, f.pick)
}

// GetCtx reads the flag for a caller with attributes. ctx may be nil.
func (f *Flag[T]) GetCtx(ctx *feature.Context) T {
	e, out := f.slot.decideCtx(ctx)
	return value(e, out, f.def, f.pick)
}

// Detail is GetCtx with the reason.
func (f *Flag[T]) Detail(ctx *feature.Context) Detail[T] {
	return detail(f.slot.client, f.slot.key, ctx, f.def, f.pick)
}

// BoolFlag is a handle on a boolean flag.
type BoolFlag struct{ Flag[bool] }

// On reads the flag for a unit. For a flag whose dial alone decides it costs one hash and allocates nothing.
func (f *BoolFlag) On(unit string) bool {
	e := f.slot.entry.Load()
	if !e.fast || unit == "" {
		return f.Get(unit)
	}
	hash := e.plan.Salted.Hash(unit)
	out := e.plan.Off
	if e.plan.Dial.Has(hash) {
		out = e.plan.On
	}
	e.counts.add(hash, out.Index)
	return out.Value.Bool
}

// OnCtx reads the flag for a caller with attributes.
func (f *BoolFlag) OnCtx(ctx *feature.Context) bool { return f.GetCtx(ctx) }

// BoolFlag returns a handle on a boolean flag, with the default for when there is no answer.
func (c *Client) BoolFlag(key string, def bool) *BoolFlag {
	return &BoolFlag{Flag[bool]{c.slotOf(key, true), def, pickBool}}
}

// StringFlag returns a handle on a string flag.
func (c *Client) StringFlag(key, def string) *Flag[string] {
	return &Flag[string]{c.slotOf(key, true), def, pickString}
}

// IntFlag returns a handle on a number flag; see [Client.Int].
func (c *Client) IntFlag(key string, def int64) *Flag[int64] {
	return &Flag[int64]{c.slotOf(key, true), def, pickInt}
}

// FloatFlag returns a handle on a number flag.
func (c *Client) FloatFlag(key string, def float64) *Flag[float64] {
	return &Flag[float64]{c.slotOf(key, true), def, pickFloat}
}

// ObjectFlag returns a handle on an object flag; see [Client.Object].
func (c *Client) ObjectFlag(key string, def any) *Flag[any] {
	return &Flag[any]{c.slotOf(key, true), def, pickObject}
}

// ModeFlag returns a handle on a mode flag: normal, read-only or static. Without any state it reads normal; with
// one, it keeps the last. Package modes enforces it.
func (c *Client) ModeFlag(key string) *Flag[string] {
	return c.StringFlag(key, feature.ModeNormal)
}
