package etcdstore_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/murmuration/murmuration/internal/record"
)

// register is one record as porcupine models it: a compare-and-swap register whose failed or unanswered
// swaps may or may not have happened.
type registerIn struct {
	write    bool
	from, to string
}
type registerOut struct {
	value   string
	ok      bool // the swap was applied
	unknown bool // no answer
}

func registerModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return "" },
		Step: func(state, input, output any) (bool, any) {
			now, in, out := state.(string), input.(registerIn), output.(registerOut)
			switch {
			case !in.write:
				return out.unknown || out.value == now, now
			case out.ok:
				return in.from == now, in.to
			case out.unknown && in.from == now:
				return true, in.to
			case out.unknown:
				return true, now
			}
			return in.from != now, now
		},
	}
}

// history is what concurrent clients of the register web did and were answered.
type history struct {
	start time.Time

	mu  sync.Mutex
	ops []porcupine.Operation
	// acked holds every acknowledged value and its revision, tried every value that may have been written.
	acked map[string]int64
	tried map[string]bool
}

func newHistory() *history {
	return &history{start: time.Now(), acked: make(map[string]int64), tried: make(map[string]bool)}
}

// do runs one operation and notes it.
func (h *history) do(client int, in registerIn, fn func() registerOut) registerOut {
	op := porcupine.Operation{ClientId: client, Input: in, Call: time.Since(h.start).Nanoseconds()}
	out := fn()
	op.Output, op.Return = out, time.Since(h.start).Nanoseconds()
	h.mu.Lock()
	defer h.mu.Unlock()
	if out.unknown {
		op.Return = time.Hour.Nanoseconds() // it may take effect at any later time
	}
	h.ops = append(h.ops, op)
	return out
}

// swap reads the register and tries to replace what it read; it says whether that was acknowledged. An error
// other than those a store promises fails the test.
func (h *history) swap(tb testing.TB, s record.Store, client int, to string) bool {
	tb.Helper()
	var rev int64
	read := h.do(client, registerIn{}, func() registerOut {
		item, err := s.Get(tb.Context(), web)
		rev = item.Rev
		unknown := err != nil && !errors.Is(err, record.ErrNotFound)
		if unknown && !errors.Is(err, record.ErrUnavailable) {
			tb.Errorf("Get: %v", err)
		}
		return registerOut{value: string(item.Value), unknown: unknown}
	})
	if read.unknown {
		return false
	}
	var at int64
	wrote := h.do(client, registerIn{write: true, from: read.value, to: to}, func() registerOut {
		var err error
		at, err = s.Commit(tb.Context(), record.Put(web, []byte(to), rev))
		unknown := err != nil && !errors.Is(err, record.ErrConflict)
		if unknown && !errors.Is(err, record.ErrUnavailable) {
			tb.Errorf("Commit: %v", err)
		}
		return registerOut{ok: err == nil, unknown: unknown}
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	if wrote.ok {
		h.acked[to] = at
	}
	if wrote.ok || wrote.unknown {
		h.tried[to] = true
	}
	return wrote.ok
}

// check fails the test if the history could not have happened on one register, or proves nothing.
func (h *history) check(tb testing.TB, least int) {
	tb.Helper()
	if len(h.acked) < least {
		tb.Fatalf("only %d of %d operations swapped: the history proves nothing", len(h.acked), len(h.ops))
	}
	if result := porcupine.CheckOperationsTimeout(registerModel(), h.ops, 20*time.Second); result != porcupine.Ok {
		tb.Errorf("history of %d operations, %d swaps: %s", len(h.ops), len(h.acked), result)
	}
}

// TestLinearizable checks a history of concurrent compare-and-swaps around a restart of etcd.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	cfg := config(t, srv.Server)
	cfg.OpTimeout = time.Second
	const clients, each = 4, 40
	h := newHistory()
	var wg sync.WaitGroup
	half := make(chan struct{}, clients)
	for c := range clients {
		s := open(t, cfg)
		wg.Go(func() {
			for i := range each {
				if i == each/2 {
					half <- struct{}{}
				}
				h.swap(t, s, c, fmt.Sprintf("%d-%d", c, i))
			}
		})
	}
	<-half
	srv.Stop()
	srv.start()
	wg.Wait()
	h.check(t, clients)
}
