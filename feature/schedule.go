package feature

import (
	"math/bits"
	"time"

	"github.com/murmuration/murmuration/dial"
)

// DialAt is the flag's dial at a time: its schedule's, or its own before the first stage and without one. It is
// computed in integers, so that every node on every processor computes the same.
func (f *Flag) DialAt(now time.Time) dial.Dial {
	if f.Schedule == nil {
		return f.Dial
	}
	stages := f.Schedule.Stages
	next := f.Schedule.next(now)
	if next == 0 {
		return f.Dial
	}
	from := stages[next-1]
	if !f.Schedule.Ramp || next == len(stages) {
		return from.Dial
	}
	to := stages[next]
	moved := scale(now.Sub(from.At), distance(from.Dial, to.Dial), to.At.Sub(from.At))
	if to.Dial < from.Dial {
		return from.Dial - dial.Dial(moved)
	}
	return from.Dial + dial.Dial(moved)
}

// NextChange is when the flag's dial changes by its schedule, and whether it ever will. For a ramp it is the
// next moment its ten-thousandths step.
func (f *Flag) NextChange(now time.Time) (time.Time, bool) {
	if f.Schedule == nil || f.Killed != nil {
		return time.Time{}, false
	}
	next := f.Schedule.next(now)
	if next == len(f.Schedule.Stages) {
		return time.Time{}, false
	}
	to := f.Schedule.Stages[next]
	if !f.Schedule.Ramp || next == 0 {
		return to.At, true
	}
	return nextStep(f.Schedule.Stages[next-1], to, now), true
}

// next is the index of the first stage that is still to come.
func (s *Schedule) next(now time.Time) int {
	n := 0
	for n < len(s.Stages) && !now.Before(s.Stages[n].At) {
		n++
	}
	return n
}

// nextStep is the first moment after now at which a ramp's dial differs: the least whole nanosecond g after
// from.At for which g*steps/span reaches the next whole step.
func nextStep(from, to Stage, now time.Time) time.Time {
	steps, span := distance(from.Dial, to.Dial), to.At.Sub(from.At)
	if steps == 0 {
		return to.At
	}
	moved := scale(now.Sub(from.At), steps, span)
	hi, lo := bits.Mul64(moved+1, uint64(span))
	lo, carry := bits.Add64(lo, steps-1, 0)
	gone, _ := bits.Div64(hi+carry, lo, steps)
	return from.At.Add(time.Duration(gone))
}

// scale is gone*steps/span rounded down, for 0 <= gone <= span and span > 0.
func scale(gone time.Duration, steps uint64, span time.Duration) uint64 {
	hi, lo := bits.Mul64(uint64(gone), steps)
	moved, _ := bits.Div64(hi, lo, uint64(span))
	return moved
}

func distance(a, b dial.Dial) uint64 {
	if a > b {
		a, b = b, a
	}
	return uint64(b - a)
}
