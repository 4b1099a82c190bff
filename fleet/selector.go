package fleet

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The bounds of a selector.
const (
	MaxSelector       = 4096 // bytes
	MaxSelectorValues = 256  // values of one "in" or "notin"
)

// ErrSelector is wrapped by every error of [Parse].
var ErrSelector = errors.New("bad selector")

// Selector picks hosts by their labels. The zero value picks every host. It is immutable.
type Selector struct {
	requirements []requirement
}

// operator is how a requirement compares.
type operator int

const (
	exists operator = iota
	missing
	oneOf
	noneOf
)

// requirement is one term of a selector. Values are sorted and without duplicates; one value prints as "=" or
// "!=", several as "in" or "notin".
type requirement struct {
	key    string
	op     operator
	values []string
}

// Matches reports whether every requirement of the selector holds for h.
func (s Selector) Matches(h Host) bool {
	for _, r := range s.requirements {
		if !r.matches(h) {
			return false
		}
	}
	return true
}

// Select returns the hosts that match, in the order given.
func (s Selector) Select(hosts []Host) []Host {
	var picked []Host
	for _, h := range hosts {
		if s.Matches(h) {
			picked = append(picked, h)
		}
	}
	return picked
}

// Everything reports whether the selector has no requirement and so matches every host.
func (s Selector) Everything() bool { return len(s.requirements) == 0 }

// String renders the selector in canonical form; parsing that gives an equal selector.
func (s Selector) String() string {
	terms := make([]string, len(s.requirements))
	for i, r := range s.requirements {
		terms[i] = r.String()
	}
	return strings.Join(terms, ",")
}

func (r requirement) matches(h Host) bool {
	value, ok := lookup(h, r.key)
	switch r.op {
	case exists:
		return ok
	case missing:
		return !ok
	case oneOf:
		return ok && slices.Contains(r.values, value)
	default: // noneOf
		return !ok || !slices.Contains(r.values, value)
	}
}

func (r requirement) String() string {
	switch {
	case r.op == exists:
		return r.key
	case r.op == missing:
		return "!" + r.key
	case len(r.values) == 1 && r.op == oneOf:
		return r.key + "=" + r.values[0]
	case len(r.values) == 1:
		return r.key + "!=" + r.values[0]
	case r.op == oneOf:
		return r.key + " in (" + strings.Join(r.values, ",") + ")"
	default:
		return r.key + " notin (" + strings.Join(r.values, ",") + ")"
	}
}

// lookup reads a label, or the host's own id or name.
func lookup(h Host, key string) (string, bool) {
	switch key {
	case keyID:
		return h.ID, true
	case keyName:
		return h.Name, true
	}
	value, ok := h.Labels[key]
	return value, ok
}

// Parse reads a selector; see the package comment for the language. Errors name the byte, counted from 1, where
// the text stops making sense, and wrap [ErrSelector]. Blanks between words do not matter.
func Parse(text string) (Selector, error) {
	if len(text) > MaxSelector {
		return Selector{}, fmt.Errorf("%w: %d bytes, the limit is %d", ErrSelector, len(text), MaxSelector)
	}
	p := parser{text: text}
	p.blanks()
	if p.done() {
		return Selector{}, nil
	}
	var s Selector
	for {
		r, err := p.requirement()
		if err != nil {
			return Selector{}, err
		}
		s.requirements = append(s.requirements, r)
		if p.done() {
			return s, nil
		}
		if !p.take(",") {
			return Selector{}, p.errorf("expected a comma or the end, found %s", p.found())
		}
	}
}

// parser reads a selector from left to right. Every method leaves it behind trailing blanks.
type parser struct {
	text string
	at   int
}

func (p *parser) requirement() (requirement, error) {
	if p.take("!") {
		key, err := p.key()
		return requirement{key: key, op: missing}, err
	}
	key, err := p.key()
	if err != nil {
		return requirement{}, err
	}
	r := requirement{key: key}
	switch {
	case p.take("!="):
		r.op, err = noneOf, p.one(&r)
	case p.take("=="), p.take("="):
		r.op, err = oneOf, p.one(&r)
	case p.takeWord("notin"):
		r.op, err = noneOf, p.set(&r)
	case p.takeWord("in"):
		r.op, err = oneOf, p.set(&r)
	}
	return r, err
}

// one reads the single value behind an equals sign; it may be empty.
func (p *parser) one(r *requirement) error {
	value, err := p.value()
	r.values = []string{value}
	return err
}

// set reads a list of values in parentheses.
func (p *parser) set(r *requirement) error {
	if !p.take("(") {
		return p.errorf("expected ( and a list of values, found %s", p.found())
	}
	for {
		value, err := p.value()
		if err != nil {
			return err
		}
		if r.values = append(r.values, value); len(r.values) > MaxSelectorValues {
			return p.errorf("more than %d values", MaxSelectorValues)
		}
		if p.take(")") {
			break
		}
		if !p.take(",") {
			return p.errorf("expected a comma or ), found %s", p.found())
		}
	}
	slices.Sort(r.values)
	r.values = slices.Compact(r.values)
	return nil
}

func (p *parser) key() (string, error) {
	start := p.at
	key := p.word(isKeyByte)
	if key == "" {
		return "", p.errorf("expected a label, found %s", p.found())
	}
	if err := validateKey(key); err != nil {
		return "", fmt.Errorf("%w: at byte %d: %w", ErrSelector, start+1, err)
	}
	p.blanks()
	return key, nil
}

func (p *parser) value() (string, error) {
	start := p.at
	value := p.word(isValueByte)
	if err := ValidateLabelValue(value); err != nil {
		return "", fmt.Errorf("%w: at byte %d: %w", ErrSelector, start+1, err)
	}
	p.blanks()
	return value, nil
}

func (p *parser) word(ok func(byte) bool) string {
	start := p.at
	for !p.done() && ok(p.text[p.at]) {
		p.at++
	}
	return p.text[start:p.at]
}

// take consumes the sign if it is next.
func (p *parser) take(sign string) bool {
	if !strings.HasPrefix(p.text[p.at:], sign) {
		return false
	}
	p.at += len(sign)
	p.blanks()
	return true
}

// takeWord consumes the word if it is next and ends there.
func (p *parser) takeWord(word string) bool {
	start := p.at
	if p.word(isKeyByte) != word {
		p.at = start
		return false
	}
	p.blanks()
	return true
}

func (p *parser) blanks() {
	for !p.done() && (p.text[p.at] == ' ' || p.text[p.at] == '\t') {
		p.at++
	}
}

func (p *parser) done() bool { return p.at >= len(p.text) }

// found names what is next, for messages.
func (p *parser) found() string {
	if p.done() {
		return "the end"
	}
	return fmt.Sprintf("%q", p.text[p.at:min(p.at+12, len(p.text))])
}

func (p *parser) errorf(format string, args ...any) error {
	return fmt.Errorf("%w: at byte %d: %s", ErrSelector, p.at+1, fmt.Sprintf(format, args...))
}
