package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/murmuration/murmuration/darkmode"
	"github.com/murmuration/murmuration/scripts/bench/rows"
)

// tally notes when each of n clients had a kill.
type tally struct {
	mu   sync.Mutex
	at   []time.Time
	left atomic.Int64
	all  chan struct{}
}

func (t *tally) begin(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at, t.all = make([]time.Time, n), make(chan struct{})
	t.left.Store(int64(n))
}

func (t *tally) hit(i int, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i < len(t.at) && t.at[i].IsZero() {
		t.at[i] = at
		if t.left.Add(-1) == 0 {
			close(t.all)
		}
	}
}

// kills is what some kills took, in ms each.
type kills struct {
	took     []float64 // until each client had it, from before the operator asked
	operator []float64 // until the operator had the answer
	server   []float64 // processor time of flagd in all, a second of rest included
}

// killRounds kills and restores a flag some times.
func killRounds(ctx context.Context, w *world, t *tally, n, rounds int) (kills, error) {
	var k kills
	for range rounds {
		used, err := w.flagd.cpu()
		if err != nil {
			return k, err
		}
		if err := k.once(ctx, w, t, n); err != nil {
			return k, err
		}
		if err := pause(ctx, time.Second); err != nil { // acknowledgements are still under way
			return k, err
		}
		now, err := w.flagd.cpu()
		if err != nil {
			return k, err
		}
		k.server = append(k.server, ms(now-used))
		if err := w.restore(ctx, dialFlag); err != nil {
			return k, err
		}
		if err := pause(ctx, time.Second); err != nil { // everyone is done with it
			return k, err
		}
	}
	slices.Sort(k.took)
	return k, nil
}

// once kills the flag and waits until all n clients have it.
func (k *kills) once(ctx context.Context, w *world, t *tally, n int) error {
	t.begin(n)
	start := time.Now()
	if _, err := w.kill(ctx, dialFlag); err != nil {
		return err
	}
	k.operator = append(k.operator, ms(time.Since(start)))
	select {
	case <-t.all:
	case <-time.After(time.Minute):
		return fmt.Errorf("%d of %d clients never heard of the kill", t.left.Load(), n)
	}
	for _, at := range t.at {
		k.took = append(k.took, ms(at.Sub(start)))
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func benchKill(ctx context.Context, o options) ([]rows.Row, error) {
	var out []rows.Row
	for _, n := range []int{1_000, 10_000} {
		for _, measure := range []func(context.Context, options, int) ([]rows.Row, error){killStreams, killSDK} {
			r, err := measure(ctx, o, n)
			if err != nil {
				return nil, fmt.Errorf("%d clients: %w", n, err)
			}
			out = append(out, r...)
		}
	}
	return out, nil
}

// killStreams measures kills with clients that only read, and what they cost while nothing happens.
func killStreams(ctx context.Context, o options, n int) ([]rows.Row, error) {
	w, err := newWorld(ctx, definitions(100))
	if err != nil {
		return nil, err
	}
	defer w.close()
	before, err := restingMemory(w.flagd)
	if err != nil {
		return nil, err
	}
	var t tally
	f, err := gather(ctx, w, n, t.hit)
	if err != nil {
		return nil, err
	}
	defer f.scatter()
	after, err := restingMemory(w.flagd)
	if err != nil {
		return nil, err
	}
	k, err := killRounds(ctx, w, &t, n, o.rounds)
	if err != nil {
		return nil, err
	}
	return append(killRows(n, "murmur", k),
		rows.New(fmt.Sprintf("idle-%d", n), "murmur", "kib_per_stream", (after-before)*1024/float64(n), "KiB of resident memory, TLS included, after a collection"),
		rows.New(fmt.Sprintf("idle-%d", n), "murmur", "rss_mib", after, "MiB"),
	), nil
}

func restingMemory(p *process) (float64, error) {
	if err := p.settle(); err != nil {
		return 0, err
	}
	return p.memory("VmRSS")
}

func killRows(n int, subject string, k kills) []rows.Row {
	name := fmt.Sprintf("kill-%d", n)
	return []rows.Row{
		rows.New(name, subject, "p50_ms", quantile(k.took, 0.5), "ms"),
		rows.New(name, subject, "p99_ms", quantile(k.took, 0.99), "ms"),
		rows.New(name, subject, "max_ms", quantile(k.took, 1), "ms"),
		rows.New(name, subject, "operator_p50_ms", median(k.operator), "ms until the operator has the answer"),
		rows.New(name, subject, "server_cpu_ms", median(k.server), "ms of flagd's processor time"),
	}
}

// killSDK measures kills with whole clients.
func killSDK(ctx context.Context, o options, n int) ([]rows.Row, error) {
	w, err := newWorld(ctx, definitions(100))
	if err != nil {
		return nil, err
	}
	defer w.close()
	var t tally
	clients := make([]*darkmode.Client, n)
	var wg sync.WaitGroup
	defer func() {
		for _, c := range clients {
			if c != nil {
				wg.Go(func() { _ = c.Close() }) // its error is the disk copy's, and there is none
			}
		}
		wg.Wait()
	}()
	for i := range clients {
		clients[i] = sdkClient(w, i, &t)
		clients[i].Start(ctx)
		if i%64 == 63 { // no more than 64 at once: this measures kills, not connecting
			for _, c := range clients[i-63 : i+1] {
				if err := synced(ctx, c); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, c := range clients {
		if err := synced(ctx, c); err != nil {
			return nil, err
		}
	}
	k, err := killRounds(ctx, w, &t, n, o.rounds)
	if err != nil {
		return nil, err
	}
	return killRows(n, "murmur-sdk", k), nil
}

func synced(ctx context.Context, c *darkmode.Client) error {
	select {
	case <-c.Ready():
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("a client did not connect: %w", c.Status().LastError)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sdkClient is a client with a connection of its own that tells the tally of kills.
func sdkClient(w *world, i int, t *tally) *darkmode.Client {
	c := darkmode.New(darkmode.Config{
		Name: "bench", Servers: []string{"https://" + w.flagd.TLS}, Token: w.flagd.Read, ReportInterval: -1,
		HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: w.tls.Clone(), ForceAttemptHTTP2: true}},
	})
	c.Subscribe(func(e darkmode.Event) {
		if e.Kind == darkmode.FlagsChanged && c.BoolDetail(dialFlag, nil, true).Killed {
			t.hit(i, time.Now())
		}
	})
	return c
}
