package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/murmuration/murmuration/scripts/bench/rows"
)

// benchReconnect kills a flagd that 10,000 clients listen to, starts it again, and measures how they come back.
func benchReconnect(ctx context.Context, _ options) ([]rows.Row, error) {
	const n = 10_000
	w, err := newWorld(ctx, definitions(100))
	if err != nil {
		return nil, err
	}
	defer w.close()
	f, err := gather(ctx, w, n, func(int, time.Time) {})
	if err != nil {
		return nil, err
	}
	defer f.scatter()
	start := time.Now()
	address := w.flagd.TLS
	w.flagd.crash()
	for f.connected.Load() > 0 {
		if err := pause(ctx, time.Millisecond); err != nil {
			return nil, err
		}
	}
	if err := w.startFlagd(address); err != nil {
		return nil, err
	}
	serves := time.Since(start)
	probed := make(chan probes, 1)
	watch, stop := context.WithCancel(ctx)
	go func() { probed <- probe(watch, target{"murmur", w.flagd.Plain, w.flagd.Read}) }()
	err = f.await(ctx, n, 3*time.Minute)
	stop()
	back := time.Since(start)
	p := <-probed
	if err != nil {
		return nil, err
	}
	peak, err := w.flagd.memory("VmHWM")
	if err != nil {
		return nil, err
	}
	if len(p.took) == 0 {
		return nil, fmt.Errorf("no probe was answered: %w", p.err)
	}
	name := fmt.Sprintf("reconnect-%d", n)
	return []rows.Row{
		rows.New(name, "murmur", "serves_again_s", serves.Seconds(), "s after the crash, the new process's start included"),
		rows.New(name, "murmur", "all_back_s", back.Seconds(), "s after the crash"),
		rows.New(name, "murmur", "refused", float64(f.refused.Load()), "refusals with Retry-After"),
		rows.New(name, "murmur", "peak_rss_mib", peak, "MiB"),
		rows.New(name, "murmur", "meanwhile_p99_ms", quantile(p.took, 0.99), "ms for one evaluation over HTTP"),
		rows.New(name, "murmur", "meanwhile_failed", float64(p.failed), "of the evaluations"),
	}, nil
}

// probes are evaluations made now and then.
type probes struct {
	took   []float64
	failed int
	err    error
}

// probe evaluates a flag every 20 ms until ctx ends.
func probe(ctx context.Context, t target) probes {
	var p probes
	for pause(ctx, 20*time.Millisecond) == nil {
		took, err := askOver(t, singlePath, time.Now().Add(time.Millisecond))
		if err != nil {
			p.failed, p.err = p.failed+1, err
			continue
		}
		p.took = append(p.took, took...)
	}
	slices.Sort(p.took)
	return p
}
