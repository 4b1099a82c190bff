package feature

import (
	"encoding/json"
	"time"

	"github.com/murmuration/murmuration/dial"
)

// Type is the type of a flag's values.
type Type string

// The types of flag.
const (
	Boolean Type = "boolean"
	String  Type = "string"
	Number  Type = "number"
	Object  Type = "object"
	// Mode is a string flag that puts a service in one of the modes below.
	Mode Type = "mode"
)

// The variants of a mode flag, and their values.
const (
	ModeNormal   = "normal"
	ModeReadOnly = "read-only"
	ModeStatic   = "static"
)

// Flag is one definition. The zero value of every field but Key, Type, Variants, On and Off is a useful default.
type Flag struct {
	// Key matches [A-Za-z0-9][A-Za-z0-9._-]{0,127}.
	Key         string    `json:"key"`
	Description string    `json:"description,omitempty"`
	Owner       string    `json:"owner,omitempty"`
	Type        Type      `json:"type"`
	Variants    []Variant `json:"variants"`
	// On is the variant for units within the dial; Off for those outside it, and what a kill answers.
	On  string `json:"on"`
	Off string `json:"off"`
	// Dial is the share of units that get On, from 0 to 10000, while no schedule says otherwise.
	Dial dial.Dial `json:"dial"`
	// Unit says what is bucketed: "" for the targeting key, or the name of a context attribute, such as "host".
	Unit string `json:"unit,omitempty"`
	// Salt keeps this flag's buckets independent of others'. Default: the key.
	Salt string `json:"salt,omitempty"`
	// HashVersion names the bucketing function; 0 means the current one at the time of writing, and is
	// replaced by its number when the flag is stored.
	HashVersion   int               `json:"hash_version,omitempty"`
	Rules         []Rule            `json:"rules,omitempty"`
	Overrides     map[string]string `json:"overrides,omitempty"` // unit -> variant
	Prerequisites []Prerequisite    `json:"prerequisites,omitempty"`
	Schedule      *Schedule         `json:"schedule,omitempty"`
	// ExpiresAt is when the flag should be cleaned up. It changes no evaluation; it is reported.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Tags      []string  `json:"tags,omitempty"`
	Killed    *Kill     `json:"killed,omitempty"`
	// Version counts the writes of this flag, from 1.
	Version uint64 `json:"version,omitempty"`
}

// Variant is a named value.
type Variant struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
}

// Rule serves a variant to those who match.
type Rule struct {
	Name string `json:"name,omitempty"`
	// Clauses must all match. A rule without clauses matches everyone.
	Clauses []Clause `json:"clauses"`
	Variant string   `json:"variant"`
	// Dial is the share of matching units that get Variant; the others get the off variant. nil means all.
	Dial *dial.Dial `json:"dial,omitempty"`
}

// Op is how a clause compares.
type Op string

// The operators. A missing attribute matches none of them but OpExists with false and negated clauses never
// match on a missing attribute either: silence is no evidence.
const (
	OpIn         Op = "in"          // equals one of the values (text, number or boolean)
	OpStartsWith Op = "starts_with" // text
	OpEndsWith   Op = "ends_with"
	OpContains   Op = "contains"
	OpMatches    Op = "matches" // RE2 regular expression, one of
	OpLess       Op = "lt"      // number
	OpLessEq     Op = "lte"
	OpGreater    Op = "gt"
	OpGreaterEq  Op = "gte"
	OpBefore     Op = "before" // RFC 3339 time
	OpAfter      Op = "after"
	OpSemverLess Op = "semver_lt" // semantic version 2.0
	OpSemverEq   Op = "semver_eq"
	OpSemverMore Op = "semver_gt"
	OpSegment    Op = "segment" // the caller is in one of the named segments; Attribute is not used
	OpExists     Op = "exists"  // the attribute is there; no values
)

// Clause is one condition on the caller's context.
type Clause struct {
	// Attribute is a name in the context; "targetingKey" is the targeting key. A dot reaches into an object.
	Attribute string `json:"attribute,omitempty"`
	Op        Op     `json:"op"`
	// Values are JSON scalars; one match is enough.
	Values []json.RawMessage `json:"values,omitempty"`
	Negate bool              `json:"negate,omitempty"`
}

// Segment is a named set of callers.
type Segment struct {
	Key         string `json:"key"`
	Description string `json:"description,omitempty"`
	// Excluded wins over Included; both list targeting keys.
	Included []string `json:"included,omitempty"`
	Excluded []string `json:"excluded,omitempty"`
	// AnyOf holds alternatives; within one all clauses must match. Clauses may not name segments.
	AnyOf   [][]Clause `json:"any_of,omitempty"`
	Version uint64     `json:"version,omitempty"`
}

// Prerequisite is another flag that must serve one of Variants.
type Prerequisite struct {
	Flag     string   `json:"flag"`
	Variants []string `json:"variants"`
}

// Schedule moves the dial with time. Before the first stage the flag's own dial holds.
type Schedule struct {
	// Stages are in rising order of time.
	Stages []Stage `json:"stages"`
	// Ramp moves in a straight line from one stage to the next instead of in steps.
	Ramp bool `json:"ramp,omitempty"`
}

// Stage is the dial from a point in time on.
type Stage struct {
	At   time.Time `json:"at"`
	Dial dial.Dial `json:"dial"`
}

// Kill is why a flag is off whatever else it says.
type Kill struct {
	By   string    `json:"by"`
	Why  string    `json:"why"`
	When time.Time `json:"when"`
}

// Reason says why a variant was chosen, in OpenFeature's words.
type Reason string

// The reasons. DISABLED is never used; see the package doc.
const (
	Static         Reason = "STATIC"
	TargetingMatch Reason = "TARGETING_MATCH"
	Split          Reason = "SPLIT"
	ErrorReason    Reason = "ERROR"
)

// ErrorCode says why nothing could be evaluated, in OpenFeature's words.
type ErrorCode string

// The error codes. "" means success.
const (
	FlagNotFound        ErrorCode = "FLAG_NOT_FOUND"
	TargetingKeyMissing ErrorCode = "TARGETING_KEY_MISSING"
	InvalidContext      ErrorCode = "INVALID_CONTEXT"
	ParseError          ErrorCode = "PARSE_ERROR"
	General             ErrorCode = "GENERAL"
)

// Context is what is known of a caller. Attribute values are what encoding/json decodes into an any, and the
// integer types of Go.
type Context struct {
	// TargetingKey is the unit by default; "" when there is none.
	TargetingKey string
	Attributes   map[string]any
	// Base holds attributes of the caller's surroundings, such as its host; Attributes wins over it name by name.
	// It lets a process add what is true of all its callers without copying a map for each.
	Base map[string]any
}

// Resolution is the answer for one flag. It holds no memory of its own: Value is shared and read-only.
type Resolution struct {
	Key     string
	Variant string
	Value   *Value
	Reason  Reason
	// Code is "" on success; then Value is set.
	Code   ErrorCode
	Detail string
	// Version is the flag's; Killed says that a kill decided.
	Version uint64
	Killed  bool
	Type    Type
}

// Value is one compiled value. Only the field of the flag's type is meaningful, besides Raw.
type Value struct {
	Bool bool
	Text string
	// Number holds every number; Int holds it too when IsInt (it was written without fraction or exponent).
	Number float64
	Int    int64
	IsInt  bool
	// Any is the decoded form of an object.
	Any any
	// Raw is the JSON as it was written, compacted.
	Raw json.RawMessage
}
