package darkmode

import (
	"time"

	"github.com/murmuration/murmuration/feature"
)

// Error codes beside those of feature, in OpenFeature's words.
const (
	// TypeMismatch: the flag's values are of another type than the read.
	TypeMismatch feature.ErrorCode = "TYPE_MISMATCH"
	// NotReady: there is no state from anywhere yet.
	NotReady feature.ErrorCode = "PROVIDER_NOT_READY"
)

// Detail is an answer and why it is so.
type Detail[T any] struct {
	// Value is the flag's, or the default in the call when Code is not "".
	Value   T
	Key     string
	Variant string
	Reason  feature.Reason
	// Code is "" on success; Message says more.
	Code    feature.ErrorCode
	Message string
	// Version is the flag's, Revision the state's.
	Version  uint64
	Revision uint64
	Source   Source
	Killed   bool
}

// pick takes a value of a Go type out of a flag of a type; ok is false when the types do not go together.
type pick[T any] func(typ feature.Type, v *feature.Value) (value T, ok bool)

func pickBool(t feature.Type, v *feature.Value) (bool, bool) { return v.Bool, t == feature.Boolean }

func pickString(t feature.Type, v *feature.Value) (string, bool) {
	return v.Text, t == feature.String || t == feature.Mode
}

func pickInt(t feature.Type, v *feature.Value) (int64, bool) {
	return v.Int, t == feature.Number && v.IsInt
}

func pickFloat(t feature.Type, v *feature.Value) (float64, bool) {
	return v.Number, t == feature.Number
}

func pickObject(t feature.Type, v *feature.Value) (any, bool) { return v.Any, t == feature.Object }

// Bool reads a boolean flag for a unit, which may be "" for flags that are not split.
func (c *Client) Bool(key, unit string, def bool) bool { return read(c, key, unit, def, pickBool) }

// String reads a string or mode flag.
func (c *Client) String(key, unit, def string) string { return read(c, key, unit, def, pickString) }

// Int reads a number flag whose value is written without fraction or exponent.
func (c *Client) Int(key, unit string, def int64) int64 { return read(c, key, unit, def, pickInt) }

// Float reads a number flag.
func (c *Client) Float(key, unit string, def float64) float64 {
	return read(c, key, unit, def, pickFloat)
}

// Object reads an object flag: a map[string]any or []any as encoding/json decodes them. It is shared: do not
// change it.
func (c *Client) Object(key, unit string, def any) any { return read(c, key, unit, def, pickObject) }

// BoolCtx is [Client.Bool] for a caller with attributes. ctx may be nil.
func (c *Client) BoolCtx(key string, ctx *feature.Context, def bool) bool {
	return readCtx(c, key, ctx, def, pickBool)
}

// StringCtx is [Client.String] for a caller with attributes.
func (c *Client) StringCtx(key string, ctx *feature.Context, def string) string {
	return readCtx(c, key, ctx, def, pickString)
}

// IntCtx is [Client.Int] for a caller with attributes.
func (c *Client) IntCtx(key string, ctx *feature.Context, def int64) int64 {
	return readCtx(c, key, ctx, def, pickInt)
}

// FloatCtx is [Client.Float] for a caller with attributes.
func (c *Client) FloatCtx(key string, ctx *feature.Context, def float64) float64 {
	return readCtx(c, key, ctx, def, pickFloat)
}

// ObjectCtx is [Client.Object] for a caller with attributes.
func (c *Client) ObjectCtx(key string, ctx *feature.Context, def any) any {
	return readCtx(c, key, ctx, def, pickObject)
}

// BoolDetail is [Client.BoolCtx] with the reason.
func (c *Client) BoolDetail(key string, ctx *feature.Context, def bool) Detail[bool] {
	return detail(c, key, ctx, def, pickBool)
}

// StringDetail is [Client.StringCtx] with the reason.
func (c *Client) StringDetail(key string, ctx *feature.Context, def string) Detail[string] {
	return detail(c, key, ctx, def, pickString)
}

// IntDetail is [Client.IntCtx] with the reason.
func (c *Client) IntDetail(key string, ctx *feature.Context, def int64) Detail[int64] {
	return detail(c, key, ctx, def, pickInt)
}

// FloatDetail is [Client.FloatCtx] with the reason.
func (c *Client) FloatDetail(key string, ctx *feature.Context, def float64) Detail[float64] {
	return detail(c, key, ctx, def, pickFloat)
}

// ObjectDetail is [Client.ObjectCtx] with the reason.
func (c *Client) ObjectDetail(key string, ctx *feature.Context, def any) Detail[any] {
	return detail(c, key, ctx, def, pickObject)
}

func read[T any](c *Client, key, unit string, def T, p pick[T]) T {
	s := c.slotOf(key, false)
	if s == nil {
		return def
	}
	e, out := s.decide(unit)
	return value(e, out, def, p)
}

func readCtx[T any](c *Client, key string, ctx *feature.Context, def T, p pick[T]) T {
	s := c.slotOf(key, false)
	if s == nil {
		return def
	}
	e, out := s.decideCtx(ctx)
	return value(e, out, def, p)
}

// value is an outcome's value, or the default when there is no outcome or it is of another type.
func value[T any](e *entry, out *feature.Outcome, def T, p pick[T]) T {
	if out == nil {
		return def
	}
	if v, ok := p(e.typ, out.Value); ok {
		return v
	}
	return def
}

func detail[T any](c *Client, key string, ctx *feature.Context, def T, p pick[T]) Detail[T] {
	if ctx == nil {
		ctx = &feature.Context{}
	}
	st := c.state.Load()
	r := st.set.Evaluate(key, c.based(ctx), time.Now())
	d := Detail[T]{
		Value: def, Key: key, Variant: r.Variant, Reason: r.Reason, Code: r.Code, Message: r.Detail,
		Version: r.Version, Revision: st.revision, Source: st.source, Killed: r.Killed,
	}
	switch {
	case st.source == FromDefaults:
		d.Code, d.Message = NotReady, "there is no state yet: not from a server, nor a disk copy, nor a bootstrap"
		return d
	case r.Code != "":
		return d
	}
	v, ok := p(r.Type, r.Value)
	if !ok {
		d.Variant, d.Reason, d.Code = "", feature.ErrorReason, TypeMismatch
		d.Message = "the flag is of type " + string(r.Type) + " and its value " + string(r.Value.Raw) + " is not what was asked for"
		return d
	}
	d.Value = v
	if s := c.slotOf(key, false); s != nil {
		s.entry.Load().count(r.Variant)
	}
	return d
}

// count counts one evaluation by the variant's name.
func (e *entry) count(variant string) {
	if e.counts == nil {
		return
	}
	for i, name := range e.counts.variants {
		if name == variant {
			e.counts.add(0, i)
			return
		}
	}
}
