package record

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
)

// Flag is the stored form of a darkmode flag, under KindFlag and its key. Version 1. See feature.Flag for what
// the fields of the definition mean.
type Flag struct {
	FlagDef
	UpdatedAt time.Time `json:"updated_at"`
	UpdatedBy string    `json:"updated_by"`
}

// Current is the form's version.
func (Flag) Current() int { return 1 }

// FlagVersion is the stored form of one version of a flag, under KindFlagLog and [FlagVersionKey]; it is written once
// and never changed. Version 1.
type FlagVersion struct {
	// Flag is the definition as it was written; of a deletion, the one that was deleted, with the version of
	// the deletion.
	Flag   FlagDef   `json:"flag"`
	What   string    `json:"what"` // put, turn, kill, restore, delete
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// Current is the form's version.
func (FlagVersion) Current() int { return 1 }

// Segment is the stored form of a segment, under KindSegment and its key. Version 1.
type Segment struct {
	Key         string         `json:"key"`
	Description string         `json:"description,omitempty"`
	Included    []string       `json:"included,omitempty"`
	Excluded    []string       `json:"excluded,omitempty"`
	AnyOf       [][]FlagClause `json:"any_of,omitempty"`
	Version     uint64         `json:"version"`
	UpdatedAt   time.Time      `json:"updated_at"`
	UpdatedBy   string         `json:"updated_by"`
}

// Current is the form's version.
func (Segment) Current() int { return 1 }

// FlagTickets is the stored form of the secret that signs the tickets of OFREP event streams, under
// [FlagTicketsKey]. Version 1.
type FlagTickets struct {
	Secret []byte `json:"secret"` // 32 random bytes
}

// Current is the form's version.
func (FlagTickets) Current() int { return 1 }

// FlagTicketsKey is where the secret of the tickets is stored.
var FlagTicketsKey = Key{Kind: KindFleet, ID: "flag-tickets"}

// FlagKey is where a flag is stored.
func FlagKey(key string) Key { return Key{Kind: KindFlag, ID: key} }

// SegmentKey is where a segment is stored.
func SegmentKey(key string) Key { return Key{Kind: KindSegment, ID: key} }

// FlagVersionKey is where one version of a flag is stored: the digits sort as the versions do.
func FlagVersionKey(key string, version uint64) Key {
	return Key{Kind: KindFlagLog, ID: fmt.Sprintf("%s/%016d", key, version)}
}

// FlagVersionPrefix is what the IDs of all versions of a flag start with.
func FlagVersionPrefix(key string) string { return key + "/" }

// FlagDef is the definition inside [Flag] and [FlagVersion].
type FlagDef struct {
	Key           string             `json:"key"`
	Description   string             `json:"description,omitempty"`
	Owner         string             `json:"owner,omitempty"`
	Type          string             `json:"type"`
	Variants      []FlagVariant      `json:"variants"`
	On            string             `json:"on"`
	Off           string             `json:"off"`
	Dial          uint16             `json:"dial"`
	Unit          string             `json:"unit,omitempty"`
	Salt          string             `json:"salt,omitempty"`
	HashVersion   int                `json:"hash_version"`
	Rules         []FlagRule         `json:"rules,omitempty"`
	Overrides     map[string]string  `json:"overrides,omitempty"`
	Prerequisites []FlagPrerequisite `json:"prerequisites,omitempty"`
	Schedule      *FlagSchedule      `json:"schedule,omitempty"`
	ExpiresAt     time.Time          `json:"expires_at,omitzero"`
	Tags          []string           `json:"tags,omitempty"`
	Killed        *FlagKill          `json:"killed,omitempty"`
	Version       uint64             `json:"version"`
}

// FlagVariant is part of [FlagDef]. Value is JSON as text, exactly as it was written.
type FlagVariant struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// FlagRule is part of [FlagDef].
type FlagRule struct {
	Name    string       `json:"name,omitempty"`
	Clauses []FlagClause `json:"clauses,omitempty"`
	Variant string       `json:"variant"`
	Dial    *uint16      `json:"dial,omitempty"`
}

// FlagClause is part of [FlagRule] and [Segment]. Values are JSON scalars as text.
type FlagClause struct {
	Attribute string   `json:"attribute,omitempty"`
	Op        string   `json:"op"`
	Values    []string `json:"values,omitempty"`
	Negate    bool     `json:"negate,omitempty"`
}

// FlagPrerequisite is part of [FlagDef].
type FlagPrerequisite struct {
	Flag     string   `json:"flag"`
	Variants []string `json:"variants"`
}

// FlagSchedule is part of [FlagDef].
type FlagSchedule struct {
	Stages []FlagStage `json:"stages"`
	Ramp   bool        `json:"ramp,omitempty"`
}

// FlagStage is part of [FlagSchedule].
type FlagStage struct {
	At   time.Time `json:"at"`
	Dial uint16    `json:"dial"`
}

// FlagKill is part of [FlagDef].
type FlagKill struct {
	By   string    `json:"by"`
	Why  string    `json:"why"`
	When time.Time `json:"when"`
}

// NewFlagDef is the stored form of a definition. Slices of text are shared with f.
func NewFlagDef(f feature.Flag) FlagDef {
	d := FlagDef{
		Key: f.Key, Description: f.Description, Owner: f.Owner, Type: string(f.Type), On: f.On, Off: f.Off,
		Dial: uint16(f.Dial), Unit: f.Unit, Salt: f.Salt, HashVersion: f.HashVersion, Overrides: f.Overrides,
		ExpiresAt: f.ExpiresAt.UTC(), Tags: f.Tags, Version: f.Version,
	}
	for _, v := range f.Variants {
		d.Variants = append(d.Variants, FlagVariant{v.Name, string(v.Value)})
	}
	for _, r := range f.Rules {
		d.Rules = append(d.Rules, FlagRule{r.Name, storeClauses(r.Clauses), r.Variant, (*uint16)(r.Dial)})
	}
	for _, p := range f.Prerequisites {
		d.Prerequisites = append(d.Prerequisites, FlagPrerequisite(p))
	}
	if f.Schedule != nil {
		d.Schedule = &FlagSchedule{Ramp: f.Schedule.Ramp}
		for _, st := range f.Schedule.Stages {
			d.Schedule.Stages = append(d.Schedule.Stages, FlagStage{st.At.UTC(), uint16(st.Dial)})
		}
	}
	if k := f.Killed; k != nil {
		d.Killed = &FlagKill{k.By, k.Why, k.When.UTC()}
	}
	return d
}

// Feature is the definition. It may be invalid: a store holds what some program once wrote.
func (d FlagDef) Feature() feature.Flag {
	f := feature.Flag{
		Key: d.Key, Description: d.Description, Owner: d.Owner, Type: feature.Type(d.Type), On: d.On, Off: d.Off,
		Dial: dial.Dial(d.Dial), Unit: d.Unit, Salt: d.Salt, HashVersion: d.HashVersion, Overrides: d.Overrides,
		ExpiresAt: d.ExpiresAt, Tags: d.Tags, Version: d.Version,
	}
	for _, v := range d.Variants {
		f.Variants = append(f.Variants, feature.Variant{Name: v.Name, Value: json.RawMessage(v.Value)})
	}
	for _, r := range d.Rules {
		f.Rules = append(f.Rules, feature.Rule{Name: r.Name, Clauses: clauses(r.Clauses), Variant: r.Variant, Dial: (*dial.Dial)(r.Dial)})
	}
	for _, p := range d.Prerequisites {
		f.Prerequisites = append(f.Prerequisites, feature.Prerequisite(p))
	}
	if d.Schedule != nil {
		f.Schedule = &feature.Schedule{Ramp: d.Schedule.Ramp}
		for _, st := range d.Schedule.Stages {
			f.Schedule.Stages = append(f.Schedule.Stages, feature.Stage{At: st.At, Dial: dial.Dial(st.Dial)})
		}
	}
	if d.Killed != nil {
		f.Killed = new(feature.Kill(*d.Killed))
	}
	return f
}

// NewSegment is the stored form of a segment, without who wrote it when.
func NewSegment(s feature.Segment) Segment {
	out := Segment{Key: s.Key, Description: s.Description, Included: s.Included, Excluded: s.Excluded, Version: s.Version}
	for _, c := range s.AnyOf {
		out.AnyOf = append(out.AnyOf, storeClauses(c))
	}
	return out
}

// Feature is the segment's definition.
func (s Segment) Feature() feature.Segment {
	out := feature.Segment{Key: s.Key, Description: s.Description, Included: s.Included, Excluded: s.Excluded, Version: s.Version}
	for _, c := range s.AnyOf {
		out.AnyOf = append(out.AnyOf, clauses(c))
	}
	return out
}

func storeClauses(in []feature.Clause) []FlagClause {
	var out []FlagClause
	for _, c := range in {
		stored := FlagClause{Attribute: c.Attribute, Op: string(c.Op), Negate: c.Negate}
		for _, v := range c.Values {
			stored.Values = append(stored.Values, string(v))
		}
		out = append(out, stored)
	}
	return out
}

func clauses(in []FlagClause) []feature.Clause {
	var out []feature.Clause
	for _, c := range in {
		clause := feature.Clause{Attribute: c.Attribute, Op: feature.Op(c.Op), Negate: c.Negate}
		for _, v := range c.Values {
			clause.Values = append(clause.Values, json.RawMessage(v))
		}
		out = append(out, clause)
	}
	return out
}
