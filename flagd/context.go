package flagd

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/murmuration/murmuration/feature"
)

// maxDepth bounds how deep a request's JSON may nest.
const maxDepth = 32

// The ways a request's body can be wrong.
var (
	errParse   = errors.New("the body is not valid JSON")
	errContext = errors.New("the context cannot be used")
)

// parseRequest reads {"context":{"targetingKey":"...",...}}, strictly as JSON. A missing, null or empty context is the
// zero one. Other members are ignored, as OFREP asks. Numbers become float64, as with encoding/json; of a
// member given twice the last counts. It exists because it is several times faster than reflection,
// and is held to encoding/json by a fuzz test.
func parseRequest(body []byte) (feature.Context, error) {
	var ctx feature.Context
	if len(bytes.TrimSpace(body)) == 0 {
		return ctx, nil
	}
	if !utf8.Valid(body) {
		return ctx, fmt.Errorf("%w: it is not UTF-8", errParse)
	}
	p := &parser{in: body}
	ctx, wrong, err := p.request()
	if err == nil {
		if p.space(); p.at != len(p.in) {
			err = p.fail("something follows the value")
		}
	}
	if err != nil || wrong != nil {
		return feature.Context{}, cmp.Or(err, wrong)
	}
	return ctx, nil
}

// request reads the whole body. What is JSON but no request is wrong.
func (p *parser) request() (ctx feature.Context, wrong, err error) {
	if p.space(); p.peek() != '{' {
		_, err := p.value(0)
		return ctx, fmt.Errorf("%w: the body must be an object", errContext), err
	}
	err = p.object(0, func(name string) error {
		if name != "context" {
			_, err := p.value(1)
			return err
		}
		var err error
		ctx, wrong, err = p.context()
		return err
	})
	return ctx, wrong, err
}

// context reads the value of the member "context". It parses on when the value is JSON but no context, which is wrong.
func (p *parser) context() (ctx feature.Context, wrong, err error) {
	if p.peek() != '{' {
		v, err := p.value(1)
		if err == nil && v != nil {
			wrong = fmt.Errorf("%w: it must be an object", errContext)
		}
		return ctx, wrong, err
	}
	err = p.object(1, func(name string) error {
		v, err := p.value(2)
		if err != nil {
			return err
		}
		if name == "targetingKey" {
			key, isText := v.(string)
			wrong = nil
			if !isText && v != nil {
				wrong = fmt.Errorf("%w: targetingKey must be text", errContext)
			}
			ctx.TargetingKey = key
			return nil
		}
		if ctx.Attributes == nil {
			ctx.Attributes = make(map[string]any, 8)
		}
		ctx.Attributes[name] = v
		return nil
	})
	return ctx, wrong, err
}

// parser reads JSON (RFC 8259).
type parser struct {
	in []byte
	at int
}

func (p *parser) fail(what string) error {
	return fmt.Errorf("%w: byte %d: %s", errParse, p.at, what)
}

func (p *parser) space() {
	for p.at < len(p.in) {
		switch p.in[p.at] {
		case ' ', '\t', '\r', '\n':
			p.at++
		default:
			return
		}
	}
}

// peek is the next byte, 0 at the end.
func (p *parser) peek() byte {
	if p.at < len(p.in) {
		return p.in[p.at]
	}
	return 0
}

// value reads any value, at a depth.
func (p *parser) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, p.fail(fmt.Sprintf("nested deeper than %d", maxDepth))
	}
	p.space()
	switch c := p.peek(); {
	case c == '"':
		return p.text()
	case c == '{':
		out := map[string]any{}
		err := p.object(depth, func(name string) error {
			v, err := p.value(depth + 1)
			out[name] = v
			return err
		})
		return out, err
	case c == '[':
		return p.array(depth)
	case c == 't':
		return true, p.word("true")
	case c == 'f':
		return false, p.word("false")
	case c == 'n':
		return nil, p.word("null")
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	}
	return nil, p.fail("a value is missing")
}

func (p *parser) word(w string) error {
	if !bytes.HasPrefix(p.in[p.at:], []byte(w)) {
		return p.fail("a value is missing")
	}
	p.at += len(w)
	return nil
}

// object reads an object; member reads the value of each name.
func (p *parser) object(depth int, member func(name string) error) error {
	p.at++
	p.space()
	if p.peek() == '}' {
		p.at++
		return nil
	}
	for {
		if p.space(); p.peek() != '"' {
			return p.fail("a name is missing")
		}
		name, err := p.text()
		if err != nil {
			return err
		}
		if p.space(); p.peek() != ':' {
			return p.fail("a colon is missing")
		}
		p.at++
		p.space()
		if err := member(name); err != nil {
			return err
		}
		p.space()
		switch p.peek() {
		case ',':
			p.at++
		case '}':
			p.at++
			return nil
		default:
			return p.fail("a comma or } is missing")
		}
	}
}

func (p *parser) array(depth int) (any, error) {
	out := []any{}
	p.at++
	if p.space(); p.peek() == ']' {
		p.at++
		return out, nil
	}
	for {
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
		p.space()
		switch p.peek() {
		case ',':
			p.at++
		case ']':
			p.at++
			return out, nil
		default:
			return nil, p.fail("a comma or ] is missing")
		}
	}
}

// number reads a number by the grammar of JSON, which is narrower than Go's.
func (p *parser) number() (any, error) {
	start := p.at
	if p.peek() == '-' {
		p.at++
	}
	if p.peek() == '0' {
		p.at++
	} else if p.digits() == 0 {
		return nil, p.fail("a digit is missing")
	}
	if p.peek() == '.' {
		p.at++
		if p.digits() == 0 {
			return nil, p.fail("a digit is missing")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.at++
		if c := p.peek(); c == '+' || c == '-' {
			p.at++
		}
		if p.digits() == 0 {
			return nil, p.fail("a digit is missing")
		}
	}
	f, err := strconv.ParseFloat(string(p.in[start:p.at]), 64)
	if err != nil {
		return nil, p.fail("the number is out of range")
	}
	return f, nil
}

func (p *parser) digits() int {
	start := p.at
	for c := p.peek(); c >= '0' && c <= '9'; c = p.peek() {
		p.at++
	}
	return p.at - start
}

// text reads a string. The body was checked to be UTF-8.
func (p *parser) text() (string, error) {
	p.at++
	start := p.at
	for p.at < len(p.in) {
		switch c := p.in[p.at]; {
		case c == '"':
			p.at++
			return intern(p.in[start : p.at-1]), nil
		case c == '\\':
			return p.escaped(start)
		case c < ' ':
			return "", p.fail("a control character in text")
		}
		p.at++
	}
	return "", p.fail("text does not end")
}

// intern makes text, without an allocation for the two names that nearly every request has.
func intern(b []byte) string {
	switch string(b) {
	case "context":
		return "context"
	case "targetingKey":
		return "targetingKey"
	}
	return string(b)
}

// escaped reads on from the first backslash of a string.
func (p *parser) escaped(start int) (string, error) {
	out := append(make([]byte, 0, p.at-start+32), p.in[start:p.at]...)
	for p.at < len(p.in) {
		c := p.in[p.at]
		p.at++
		switch {
		case c == '"':
			return string(out), nil
		case c < ' ':
			return "", p.fail("a control character in text")
		case c != '\\':
			out = append(out, c)
			continue
		}
		var err error
		if out, err = p.escape(out); err != nil {
			return "", err
		}
	}
	return "", p.fail("text does not end")
}

func (p *parser) escape(out []byte) ([]byte, error) {
	c := p.peek()
	p.at++
	switch c {
	case '"', '\\', '/':
		return append(out, c), nil
	case 'b':
		return append(out, '\b'), nil
	case 'f':
		return append(out, '\f'), nil
	case 'n':
		return append(out, '\n'), nil
	case 'r':
		return append(out, '\r'), nil
	case 't':
		return append(out, '\t'), nil
	case 'u':
		r, ok := p.hex()
		if !ok {
			return nil, p.fail("\\u needs four hexadecimal digits")
		}
		return utf8.AppendRune(out, p.surrogate(r)), nil
	}
	return nil, p.fail("an unknown escape")
}

func (p *parser) hex() (rune, bool) {
	if len(p.in)-p.at < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(p.in[p.at:p.at+4]), 16, 16)
	if err != nil {
		return 0, false
	}
	p.at += 4
	return rune(n), true
}

// surrogate joins the halves of a pair; a half alone becomes U+FFFD.
func (p *parser) surrogate(r rune) rune {
	if !utf16.IsSurrogate(r) {
		return r
	}
	if bytes.HasPrefix(p.in[p.at:], []byte(`\u`)) {
		back := p.at
		p.at += 2
		if low, ok := p.hex(); ok {
			if joined := utf16.DecodeRune(r, low); joined != utf8.RuneError {
				return joined
			}
		}
		p.at = back
	}
	return utf8.RuneError
}
