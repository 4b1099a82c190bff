package wire

import (
	"encoding/json"
	"fmt"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
)

// Flag converts a definition. The fields about its last write and the present dial are the caller's to set.
func Flag(f feature.Flag) *murmurv1.Flag {
	out := &murmurv1.Flag{
		Key: f.Key, Description: f.Description, Owner: f.Owner, Type: string(f.Type), On: f.On, Off: f.Off,
		Dial: int32(f.Dial), Unit: f.Unit, Salt: f.Salt, HashVersion: int32(f.HashVersion), Overrides: f.Overrides,
		ExpiresAt: Time(f.ExpiresAt), Tags: f.Tags, Version: f.Version,
	}
	for _, v := range f.Variants {
		out.Variants = append(out.Variants, &murmurv1.FlagVariant{Name: v.Name, ValueJson: string(v.Value)})
	}
	for _, r := range f.Rules {
		rule := &murmurv1.FlagRule{Name: r.Name, Clauses: flagClauses(r.Clauses), Variant: r.Variant}
		if r.Dial != nil {
			rule.Dial = new(int32(*r.Dial))
		}
		out.Rules = append(out.Rules, rule)
	}
	for _, p := range f.Prerequisites {
		out.Prerequisites = append(out.Prerequisites, &murmurv1.FlagPrerequisite{Flag: p.Flag, Variants: p.Variants})
	}
	if f.Schedule != nil {
		out.Schedule = &murmurv1.FlagSchedule{Ramp: f.Schedule.Ramp}
		for _, st := range f.Schedule.Stages {
			out.Schedule.Stages = append(out.Schedule.Stages, &murmurv1.FlagStage{At: Time(st.At), Dial: int32(st.Dial)})
		}
	}
	if k := f.Killed; k != nil {
		out.Killed = &murmurv1.FlagKill{By: k.By, Why: k.Why, When: Time(k.When)}
	}
	return out
}

// ToFlag reads a definition that somebody wrote. It refuses only what a definition cannot hold (a dial outside
// 0..10000, a missing flag); the rest is for [feature.Flag.Validate]. The kill is left out: only kills kill.
func ToFlag(m *murmurv1.Flag) (feature.Flag, error) {
	var f feature.Flag
	if m == nil {
		return f, Invalid("the request has no flag")
	}
	d, err := ToDial("dial", m.Dial)
	if err != nil {
		return f, err
	}
	f = feature.Flag{
		Key: m.Key, Description: m.Description, Owner: m.Owner, Type: feature.Type(m.Type), On: m.On, Off: m.Off,
		Dial: d, Unit: m.Unit, Salt: m.Salt, HashVersion: int(m.HashVersion), Overrides: m.Overrides,
		ExpiresAt: ToTime(m.ExpiresAt), Tags: m.Tags, Version: m.Version,
	}
	for _, v := range m.Variants {
		f.Variants = append(f.Variants, feature.Variant{Name: v.GetName(), Value: json.RawMessage(v.GetValueJson())})
	}
	for i, r := range m.Rules {
		rule := feature.Rule{Name: r.GetName(), Clauses: toClauses(r.GetClauses()), Variant: r.GetVariant()}
		if r.Dial != nil {
			if d, err = ToDial(fmt.Sprintf("rules[%d].dial", i), *r.Dial); err != nil {
				return f, err
			}
			rule.Dial = new(d)
		}
		f.Rules = append(f.Rules, rule)
	}
	for _, p := range m.Prerequisites {
		f.Prerequisites = append(f.Prerequisites, feature.Prerequisite{Flag: p.GetFlag(), Variants: p.GetVariants()})
	}
	f.Schedule, err = toSchedule(m.Schedule)
	return f, err
}

func toSchedule(m *murmurv1.FlagSchedule) (*feature.Schedule, error) {
	if m == nil {
		return nil, nil
	}
	out := &feature.Schedule{Ramp: m.Ramp}
	for i, st := range m.Stages {
		d, err := ToDial(fmt.Sprintf("schedule.stages[%d].dial", i), st.GetDial())
		if err != nil {
			return nil, err
		}
		out.Stages = append(out.Stages, feature.Stage{At: ToTime(st.GetAt()), Dial: d})
	}
	return out, nil
}

// ToDial reads a dial; path says which in the error.
func ToDial(path string, n int32) (dial.Dial, error) {
	d, err := dial.New(int(n))
	if err != nil {
		return d, Invalid("%s: %w", path, err)
	}
	return d, nil
}

// FlagSegment converts a segment.
func FlagSegment(s feature.Segment) *murmurv1.FlagSegment {
	out := &murmurv1.FlagSegment{
		Key: s.Key, Description: s.Description, Included: s.Included, Excluded: s.Excluded, Version: s.Version,
	}
	for _, c := range s.AnyOf {
		out.AnyOf = append(out.AnyOf, &murmurv1.FlagAlternative{Clauses: flagClauses(c)})
	}
	return out
}

// ToFlagSegment reads a segment; whether it is valid is for [feature.Segment.Validate].
func ToFlagSegment(m *murmurv1.FlagSegment) (feature.Segment, error) {
	if m == nil {
		return feature.Segment{}, Invalid("the request has no segment")
	}
	s := feature.Segment{Key: m.Key, Description: m.Description, Included: m.Included, Excluded: m.Excluded, Version: m.Version}
	for _, a := range m.AnyOf {
		s.AnyOf = append(s.AnyOf, toClauses(a.GetClauses()))
	}
	return s, nil
}

// FlagChanges converts the difference between two versions of a flag.
func FlagChanges(changes []feature.FieldChange) []*murmurv1.FlagFieldChange {
	var out []*murmurv1.FlagFieldChange
	for _, c := range changes {
		out = append(out, &murmurv1.FlagFieldChange{Path: c.Path, Before: c.Before, After: c.After})
	}
	return out
}

func flagClauses(in []feature.Clause) []*murmurv1.FlagClause {
	var out []*murmurv1.FlagClause
	for _, c := range in {
		m := &murmurv1.FlagClause{Attribute: c.Attribute, Op: string(c.Op), Negate: c.Negate}
		for _, v := range c.Values {
			m.ValuesJson = append(m.ValuesJson, string(v))
		}
		out = append(out, m)
	}
	return out
}

func toClauses(in []*murmurv1.FlagClause) []feature.Clause {
	var out []feature.Clause
	for _, m := range in {
		c := feature.Clause{Attribute: m.GetAttribute(), Op: feature.Op(m.GetOp()), Negate: m.GetNegate()}
		for _, v := range m.GetValuesJson() {
			c.Values = append(c.Values, json.RawMessage(v))
		}
		out = append(out, c)
	}
	return out
}
