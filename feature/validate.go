package feature

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/murmuration/murmuration/dial"
)

// Bounds of a definition. They keep one flag from hurting every client of the fleet.
const (
	MaxVariants   = 64
	MaxRules      = 128
	MaxClauses    = 32
	MaxValues     = 1024
	MaxOverrides  = 10_000
	MaxStages     = 64
	MaxValueBytes = 64 << 10
	MaxText       = 4096
	maxKey        = 128
)

// FieldError is one thing wrong with a definition.
type FieldError struct {
	// Path is where, for example "rules[1].clauses[0].values[2]".
	Path string
	Msg  string
}

// Error renders "path: message".
func (e *FieldError) Error() string { return e.Path + ": " + e.Msg }

// problems collects field errors.
type problems struct{ errs []error }

func (p *problems) add(path, format string, args ...any) {
	if len(p.errs) < 50 {
		p.errs = append(p.errs, &FieldError{path, fmt.Sprintf(format, args...)})
	}
}

// ValidKey reports whether s can be the key of a flag or segment.
func ValidKey(s string) bool {
	if s == "" || len(s) > maxKey {
		return false
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return true
}

// Validate reports everything wrong with f as joined [FieldError]s, or nil. What concerns other flags
// (prerequisites that do not exist, cycles, segments) is [Set.Check]'s.
func (f *Flag) Validate() error {
	var p problems
	if !ValidKey(f.Key) {
		p.add("key", "%q must start with a letter or digit and hold at most %d of letters, digits, '.', '_' and '-'", f.Key, maxKey)
	}
	f.checkTexts(&p)
	f.checkVariants(&p)
	if !f.Dial.Valid() {
		p.add("dial", "%d is outside 0..%d", f.Dial, dial.Full)
	}
	if f.HashVersion != 0 && f.HashVersion != dial.HashVersion {
		p.add("hash_version", "%d is unknown: this program knows %d", f.HashVersion, dial.HashVersion)
	}
	f.checkRules(&p)
	f.checkOverrides(&p)
	f.checkPrerequisites(&p)
	f.Schedule.check(&p)
	return errors.Join(p.errs...)
}

func (f *Flag) checkTexts(p *problems) {
	texts := []struct{ path, text string }{{"description", f.Description}, {"owner", f.Owner}, {"unit", f.Unit}, {"salt", f.Salt}}
	for i, tag := range f.Tags {
		texts = append(texts, struct{ path, text string }{fmt.Sprintf("tags[%d]", i), tag})
		if tag == "" {
			p.add(fmt.Sprintf("tags[%d]", i), "is empty")
		}
	}
	for _, t := range texts {
		if len(t.text) > MaxText || !utf8.ValidString(t.text) {
			p.add(t.path, "must be valid UTF-8 of at most %d bytes", MaxText)
		}
	}
}

func (f *Flag) checkVariants(p *problems) {
	if !slices.Contains([]Type{Boolean, String, Number, Object, Mode}, f.Type) {
		p.add("type", "%q is not boolean, string, number, object or mode", f.Type)
		return
	}
	if n := len(f.Variants); n == 0 || n > MaxVariants {
		p.add("variants", "there must be 1 to %d, there are %d", MaxVariants, n)
	}
	seen := map[string]bool{}
	for i, v := range f.Variants {
		path := fmt.Sprintf("variants[%d]", i)
		if !ValidKey(v.Name) {
			p.add(path+".name", "%q is not a name of letters, digits, '.', '_' and '-'", v.Name)
		}
		if seen[v.Name] {
			p.add(path+".name", "%q is there twice", v.Name)
		}
		seen[v.Name] = true
		if _, err := compileValue(f.Type, v); err != nil {
			p.add(path+".value", "%v", err)
		}
	}
	f.mustBeVariant(p, "on", f.On)
	f.mustBeVariant(p, "off", f.Off)
}

func (f *Flag) mustBeVariant(p *problems, path, name string) {
	if !slices.ContainsFunc(f.Variants, func(v Variant) bool { return v.Name == name }) {
		p.add(path, "%q is not one of the variants", name)
	}
}

func (f *Flag) checkRules(p *problems) {
	if len(f.Rules) > MaxRules {
		p.add("rules", "there are %d, the most is %d", len(f.Rules), MaxRules)
		return
	}
	for i, r := range f.Rules {
		path := fmt.Sprintf("rules[%d]", i)
		f.mustBeVariant(p, path+".variant", r.Variant)
		if r.Dial != nil && !r.Dial.Valid() {
			p.add(path+".dial", "%d is outside 0..%d", *r.Dial, dial.Full)
		}
		checkClauses(p, path+".clauses", r.Clauses, true)
	}
}

func (f *Flag) checkOverrides(p *problems) {
	if len(f.Overrides) > MaxOverrides {
		p.add("overrides", "there are %d, the most is %d: use a segment", len(f.Overrides), MaxOverrides)
		return
	}
	for unit, variant := range f.Overrides {
		f.mustBeVariant(p, fmt.Sprintf("overrides[%q]", unit), variant)
		if unit == "" || len(unit) > MaxText || !utf8.ValidString(unit) {
			p.add(fmt.Sprintf("overrides[%q]", unit), "the unit must be valid UTF-8 of 1 to %d bytes", MaxText)
		}
	}
}

func (f *Flag) checkPrerequisites(p *problems) {
	for i, r := range f.Prerequisites {
		path := fmt.Sprintf("prerequisites[%d]", i)
		if !ValidKey(r.Flag) {
			p.add(path+".flag", "%q is not a flag key", r.Flag)
		}
		if r.Flag == f.Key {
			p.add(path+".flag", "a flag cannot be its own prerequisite")
		}
		if len(r.Variants) == 0 {
			p.add(path+".variants", "name at least one variant")
		}
	}
}

func (s *Schedule) check(p *problems) {
	if s == nil {
		return
	}
	if n := len(s.Stages); n == 0 || n > MaxStages {
		p.add("schedule.stages", "there must be 1 to %d, there are %d", MaxStages, n)
	}
	for i, st := range s.Stages {
		path := fmt.Sprintf("schedule.stages[%d]", i)
		if !st.Dial.Valid() {
			p.add(path+".dial", "%d is outside 0..%d", st.Dial, dial.Full)
		}
		if i > 0 && !st.At.After(s.Stages[i-1].At) {
			p.add(path+".at", "is not after the stage before")
		}
	}
}

// Validate reports everything wrong with s as joined [FieldError]s, or nil.
func (s *Segment) Validate() error {
	var p problems
	if !ValidKey(s.Key) {
		p.add("key", "%q is not a segment key", s.Key)
	}
	if len(s.Included)+len(s.Excluded) > 10*MaxOverrides {
		p.add("included", "more than %d keys in all", 10*MaxOverrides)
	}
	if len(s.AnyOf) > MaxRules {
		p.add("any_of", "there are %d alternatives, the most is %d", len(s.AnyOf), MaxRules)
	}
	for i, clauses := range s.AnyOf {
		checkClauses(&p, fmt.Sprintf("any_of[%d]", i), clauses, false)
		if len(clauses) == 0 {
			p.add(fmt.Sprintf("any_of[%d]", i), "an alternative without clauses would match everyone")
		}
	}
	return errors.Join(p.errs...)
}

func checkClauses(p *problems, path string, clauses []Clause, segments bool) {
	if len(clauses) > MaxClauses {
		p.add(path, "there are %d, the most is %d", len(clauses), MaxClauses)
		return
	}
	for i := range clauses {
		at := fmt.Sprintf("%s[%d]", path, i)
		if clauses[i].Op == OpSegment && !segments {
			p.add(at+".op", "a segment cannot be made of segments")
			continue
		}
		if _, err := compileClause(&clauses[i]); err != nil {
			if fe, ok := errors.AsType[*FieldError](err); ok {
				p.add(at+"."+fe.Path, "%s", fe.Msg)
			}
		}
	}
}

// scalar decodes one JSON scalar of a clause.
func scalar(raw json.RawMessage) (any, error) {
	if len(raw) > MaxText {
		return nil, fmt.Errorf("is longer than %d bytes", MaxText)
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, fmt.Errorf("is not JSON: %w", err)
	}
	switch v.(type) {
	case string, float64, bool:
		return v, nil
	}
	return nil, fmt.Errorf("%s is not text, a number or a boolean", raw)
}

func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is not an RFC 3339 time such as 2026-01-31T12:00:00Z", s)
	}
	return t, nil
}

func parseRegexp(s string) (*regexp.Regexp, error) {
	if len(s) > 512 {
		return nil, fmt.Errorf("an expression may have at most 512 bytes")
	}
	return regexp.Compile(s)
}
