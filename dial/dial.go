// Package dial is the 0..10000 dial that everything in Murmuration turns on.
//
// A flag at 250 is on for 2.5 % of its units; a rollout at 250 is active on 2.5 % of its hosts. Both use
// the same type and the same bucketing function, so the dial has one meaning everywhere:
//
//   - 0 is off for every unit and 10000 is on for every unit; both are exact and hash nothing.
//   - Turning a dial up only ever adds units; turning it back removes exactly those (nested sets).
//   - Two dials with different salts choose independent sets of units.
//
// Bucketing is (murmur3_32(salt + unit) * 10000) >> 32, in integers. It is the same as OpenFeature's
// fractional operator, version 2, with a total weight of 10000, so its published vectors check ours; our
// own vectors are in testdata. A stored definition carries [HashVersion], so that a later function can
// be introduced without moving a single unit of an old one.
//
// The package is pure: no I/O, no clock, no state. All functions are safe for concurrent use.
package dial

import (
	"fmt"
	"strconv"

	"github.com/twmb/murmur3"
)

const (
	// Off turns every unit off, without hashing. It is the emergency stop.
	Off Dial = 0
	// Full turns every unit on, without hashing.
	Full Dial = 10000
	// HashVersion names the bucketing function of this package in stored definitions.
	HashVersion = 1
)

// Dial is a share in ten-thousandths, from [Off] to [Full]. The zero value is off.
type Dial uint16

// New checks n and returns it as a Dial. Anything outside 0..10000 is an error.
func New(n int) (Dial, error) {
	if n < int(Off) || n > int(Full) {
		return Off, fmt.Errorf("dial %d is outside 0..%d", n, Full)
	}
	return Dial(n), nil
}

// Parse reads a dial from text: a whole number from 0 to 10000 ("250"), or a percentage with at most two
// decimals ("2.5%").
func Parse(s string) (Dial, error) {
	text, percent := s, false
	if n := len(s); n > 0 && s[n-1] == '%' {
		text, percent = s[:n-1], true
	}
	if !percent {
		n, err := strconv.Atoi(text)
		if err != nil {
			return Off, fmt.Errorf("dial %q is not a whole number from 0 to %d or a percentage", s, Full)
		}
		return New(n)
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f < 0 || f > 100 {
		return Off, fmt.Errorf("dial %q is not a percentage from 0%% to 100%%", s)
	}
	n := int(f*100 + 0.5)
	if diff := f*100 - float64(n); diff > 1e-6 || diff < -1e-6 {
		return Off, fmt.Errorf("dial %q has steps finer than 0.01%%", s)
	}
	return New(n)
}

// Valid reports whether d is within 0..10000.
func (d Dial) Valid() bool { return d <= Full }

// Percent renders the dial for people: "2.5%", "100%".
func (d Dial) Percent() string {
	return strconv.FormatFloat(float64(d)/100, 'f', -1, 64) + "%"
}

// String renders the dial as its number.
func (d Dial) String() string { return strconv.Itoa(int(d)) }

// Bucket places a unit in 0..9999. The salt keeps one flag's or service's buckets independent of
// another's. It allocates nothing for a joined length of up to 128 bytes.
func Bucket(salt, unit string) uint16 {
	return uint16((uint64(Hash(salt, unit)) * uint64(Full)) >> 32)
}

// Hash is the 32 bits that [Bucket] scales down: MurmurHash3_x86_32 of salt and unit joined, seed 0. Sorting by
// it agrees with sorting by bucket.
func Hash(salt, unit string) uint32 {
	var stack [128]byte
	return murmur3.Sum32(append(append(stack[:0], salt...), unit...))
}

// On reports whether the unit is within the dial. Off and Full are exact and hash nothing.
func (d Dial) On(salt, unit string) bool {
	switch {
	case d == Off:
		return false
	case d >= Full:
		return true
	}
	return Bucket(salt, unit) < uint16(d)
}

// Count is how many of n units a dial covers when the units are taken in order rather than by bucket, as
// a rollout does: none at Off, all at Full, else the share rounded up, so at least one. The result never
// shrinks when the dial turns up. A negative n counts as zero.
func (d Dial) Count(n int) int {
	if n <= 0 || d == Off {
		return 0
	}
	if d >= Full {
		return n
	}
	return (n*int(d) + int(Full) - 1) / int(Full)
}
