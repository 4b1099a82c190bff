package probe

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/murmuration/murmuration/release"
)

// Await returns nil once every check has succeeded its number of times in a row, and an error that wraps
// [ErrUnhealthy] as soon as one has missed its deadline. No checks are healthy at once. When ctx ends first,
// its cause is returned.
func (c Checks) Await(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	verdicts := make(chan error, len(c.List))
	for _, h := range c.List {
		go func() { verdicts <- c.await(ctx, h) }()
	}
	var first error
	for range c.List {
		if err := <-verdicts; err != nil && first == nil {
			first = err
			cancel() // the others need not go on
		}
	}
	return first
}

func (c Checks) await(ctx context.Context, h release.Health) error {
	need := cmp.Or(h.Successes, DefaultSuccesses)
	limit := cmp.Or(h.Deadline.Std(), DefaultDeadline)
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	pause := time.NewTicker(cmp.Or(h.Interval.Std(), DefaultInterval))
	defer pause.Stop()

	timed, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	inRow, last := 0, error(nil)
	for {
		err := c.Once(timed, h)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			inRow++
		} else {
			inRow = 0
			if last == nil || timed.Err() == nil { // the deadline cutting a try short says less than the try before
				last = err
			}
		}
		if inRow >= need {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline.C:
			return missed(h, need, inRow, limit, last)
		case <-pause.C:
		}
	}
}

func missed(h release.Health, need, inRow int, limit time.Duration, last error) error {
	if last == nil {
		return fmt.Errorf("%w: %s: %d of %d successes in a row within %v", ErrUnhealthy, Name(h), inRow, need, limit)
	}
	return fmt.Errorf("%w: %s: not %d successes in a row within %v: %w", ErrUnhealthy, Name(h), need, limit, last)
}

// Watch looks after a running release until ctx ends. It calls changed with an error that wraps [ErrUnhealthy]
// when a check has failed its number of times in a row, and with nil when every check succeeds again. Calls
// never overlap. It starts from healthy, which is what Await has just found.
func (c Checks) Watch(ctx context.Context, changed func(error)) {
	verdicts := make(chan verdict)
	for i, h := range c.List {
		go c.watch(ctx, i, h, verdicts)
	}
	bad := map[int]error{}
	for {
		select {
		case <-ctx.Done():
			return
		case v := <-verdicts:
			before := len(bad)
			if v.err != nil {
				bad[v.check] = v.err
			} else {
				delete(bad, v.check)
			}
			if v.err != nil && before == 0 || v.err == nil && len(bad) == 0 {
				changed(v.err)
			}
		}
	}
}

type verdict struct {
	check int
	err   error
}

// watch sends a verdict each time check i changes between healthy and unhealthy.
func (c Checks) watch(ctx context.Context, i int, h release.Health, out chan<- verdict) {
	need := cmp.Or(h.Failures, DefaultFailures)
	quick := cmp.Or(h.Interval.Std(), DefaultInterval)
	failures, unhealthy := 0, false
	pause := time.NewTimer(max(quick, calm))
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		err := c.Once(ctx, h)
		if ctx.Err() != nil {
			return
		}
		next := max(quick, calm)
		if err != nil {
			failures++
			next = quick
			err = fmt.Errorf("%w: %s: failed %d times in a row: %w", ErrUnhealthy, Name(h), failures, err)
		} else {
			failures = 0
		}
		if now := failures >= need; now != unhealthy && (now || err == nil) {
			unhealthy = now
			select {
			case out <- verdict{i, err}:
			case <-ctx.Done():
				return
			}
		}
		pause.Reset(next)
	}
}
