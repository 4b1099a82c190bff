package feature

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// targetingKey is how clauses name the targeting key.
const targetingKey = "targetingKey"

// matcher is a compiled clause. It reports whether v, an attribute that is there, matches one of its values.
type matcher func(v any) bool

// clause is a compiled [Clause].
type clause struct {
	name     string
	path     []string // name, cut at its dots
	key      bool     // the attribute is the targeting key
	exists   bool
	negate   bool
	match    matcher
	segments []string
}

// compileClause checks and compiles one clause. Its errors are [FieldError]s with a path inside the clause.
func compileClause(c *Clause) (*clause, error) {
	out := &clause{name: c.Attribute, path: strings.Split(c.Attribute, "."), key: c.Attribute == targetingKey, negate: c.Negate}
	if c.Op != OpSegment && (c.Attribute == "" || len(c.Attribute) > MaxText) {
		return nil, &FieldError{"attribute", "name the attribute to look at"}
	}
	if n := len(c.Values); n > MaxValues || n == 0 && c.Op != OpExists || n > 0 && c.Op == OpExists {
		return nil, &FieldError{"values", fmt.Sprintf("operator %s cannot take %d values (the most is %d)", c.Op, n, MaxValues)}
	}
	if c.Op == OpExists {
		out.exists = true
		return out, nil
	}
	values, err := scalars(c.Values)
	if err != nil {
		return nil, err
	}
	if c.Op == OpSegment {
		out.segments, err = texts(values)
		return out, err
	}
	out.match, err = compileOp(c.Op, values)
	return out, err
}

func scalars(raws []json.RawMessage) ([]any, error) {
	values := make([]any, len(raws))
	for i, raw := range raws {
		v, err := scalar(raw)
		if err != nil {
			return nil, valueError(i, err)
		}
		values[i] = v
	}
	return values, nil
}

func valueError(i int, err error) error {
	return &FieldError{fmt.Sprintf("values[%d]", i), err.Error()}
}

func compileOp(op Op, values []any) (matcher, error) {
	switch op {
	case OpIn:
		return compileIn(values), nil
	case OpStartsWith:
		return textOp(values, strings.HasPrefix)
	case OpEndsWith:
		return textOp(values, strings.HasSuffix)
	case OpContains:
		return textOp(values, strings.Contains)
	case OpMatches:
		return parsedOp(values, parseRegexp, asText, func(s string, re *regexp.Regexp) bool { return re.MatchString(s) })
	case OpLess:
		return numberOp(values, func(a, b float64) bool { return a < b })
	case OpLessEq:
		return numberOp(values, func(a, b float64) bool { return a <= b })
	case OpGreater:
		return numberOp(values, func(a, b float64) bool { return a > b })
	case OpGreaterEq:
		return numberOp(values, func(a, b float64) bool { return a >= b })
	case OpBefore:
		return parsedOp(values, parseTime, asTime, time.Time.Before)
	case OpAfter:
		return parsedOp(values, parseTime, asTime, time.Time.After)
	case OpSemverLess:
		return parsedOp(values, parseSemver, asSemver, func(a, b semver) bool { return a.compare(b) < 0 })
	case OpSemverEq:
		return parsedOp(values, parseSemver, asSemver, func(a, b semver) bool { return a.compare(b) == 0 })
	case OpSemverMore:
		return parsedOp(values, parseSemver, asSemver, func(a, b semver) bool { return a.compare(b) > 0 })
	}
	return nil, &FieldError{"op", fmt.Sprintf("%q is not an operator", op)}
}

// compileIn compares by type: text with text, numbers with numbers. The text form is a map, so a long list
// costs what a short one does.
func compileIn(values []any) matcher {
	texts, numbers, bools := map[string]bool{}, map[float64]bool{}, map[bool]bool{}
	for _, v := range values {
		switch v := v.(type) {
		case string:
			texts[v] = true
		case float64:
			numbers[v] = true
		case bool:
			bools[v] = true
		}
	}
	return func(v any) bool {
		switch v := v.(type) {
		case string:
			return texts[v]
		case bool:
			return bools[v]
		}
		f, ok := asNumber(v)
		return ok && numbers[f]
	}
}

func texts(values []any) ([]string, error) {
	out := make([]string, len(values))
	for i, v := range values {
		s, ok := v.(string)
		if !ok {
			return nil, valueError(i, fmt.Errorf("%v is not text", v))
		}
		out[i] = s
	}
	return out, nil
}

func textOp(values []any, match func(s, value string) bool) (matcher, error) {
	list, err := texts(values)
	if err != nil {
		return nil, err
	}
	return func(v any) bool {
		s, ok := v.(string)
		return ok && anyOf(list, func(value string) bool { return match(s, value) })
	}, nil
}

func numberOp(values []any, match func(a, b float64) bool) (matcher, error) {
	list := make([]float64, len(values))
	for i, v := range values {
		f, ok := v.(float64)
		if !ok {
			return nil, valueError(i, fmt.Errorf("%v is not a number", v))
		}
		list[i] = f
	}
	return func(v any) bool {
		f, ok := asNumber(v)
		return ok && anyOf(list, func(value float64) bool { return match(f, value) })
	}, nil
}

// parsedOp compiles an operator whose values are text of some form.
func parsedOp[A, B any](values []any, parse func(string) (B, error), read func(any) (A, bool), match func(A, B) bool) (matcher, error) {
	list, err := texts(values)
	if err != nil {
		return nil, err
	}
	parsed := make([]B, len(list))
	for i, s := range list {
		if parsed[i], err = parse(s); err != nil {
			return nil, valueError(i, err)
		}
	}
	return func(v any) bool {
		a, ok := read(v)
		return ok && anyOf(parsed, func(b B) bool { return match(a, b) })
	}, nil
}

func anyOf[T any](list []T, match func(T) bool) bool {
	return slices.ContainsFunc(list, match)
}

func asText(v any) (string, bool) { s, ok := v.(string); return s, ok }

func asTime(v any) (time.Time, bool) {
	switch v := v.(type) {
	case time.Time:
		return v, true
	case string:
		t, err := time.Parse(time.RFC3339, v)
		return t, err == nil
	}
	return time.Time{}, false
}

func asSemver(v any) (semver, bool) {
	s, ok := v.(string)
	if !ok {
		return semver{}, false
	}
	out, err := parseSemver(s)
	return out, err == nil
}

func asNumber(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case int32:
		return float64(v), true
	case uint64:
		return float64(v), true
	case float32:
		return float64(v), true
	case json.Number:
		f, err := strconv.ParseFloat(string(v), 64)
		return f, err == nil
	}
	return 0, false
}

// lookup finds the clause's attribute in the context. A flat name with dots wins over a path into objects.
func (c *clause) lookup(ctx *Context) (any, bool) {
	if c.key {
		return ctx.TargetingKey, ctx.TargetingKey != ""
	}
	v, ok := ctx.attribute(c.name)
	if ok || len(c.path) == 1 {
		return v, v != nil
	}
	v, _ = ctx.attribute(c.path[0])
	for _, name := range c.path[1:] {
		object, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = object[name]; !ok {
			return nil, false
		}
	}
	return v, v != nil
}

// attribute is the caller's value of a name, else the surroundings'.
func (c *Context) attribute(name string) (any, bool) {
	v, ok := c.Attributes[name]
	if !ok && c.Base != nil {
		v, ok = c.Base[name]
	}
	return v, ok
}

// holds reports whether the clause matches. A missing attribute matches nothing, negated or not.
func (c *clause) holds(ctx *Context, segments map[string]*segment) bool {
	if c.segments != nil {
		in := anyOf(c.segments, func(key string) bool { return segments[key].has(ctx) })
		return in != c.negate
	}
	v, ok := c.lookup(ctx)
	if c.exists {
		return ok != c.negate
	}
	if !ok {
		return false
	}
	if list, isList := v.([]any); isList {
		return anyOf(list, c.match) != c.negate
	}
	return c.match(v) != c.negate
}
