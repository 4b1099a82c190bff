package release

import (
	"encoding/json"
	"fmt"
	"time"
)

// Duration is a time.Duration written as text ("30s", "5m") in YAML and JSON.
type Duration time.Duration

// Std returns the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String renders as time.Duration does.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText renders the duration as text.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText parses "1m30s"; a negative duration is an error.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 30s or 5m", text)
	}
	if v < 0 {
		return fmt.Errorf("duration %q is negative", text)
	}
	*d = Duration(v)
	return nil
}

// UnmarshalJSON accepts only text; a bare number would leave its unit to guess.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("duration %s must be text such as \"30s\"", b)
	}
	return d.UnmarshalText([]byte(s))
}
