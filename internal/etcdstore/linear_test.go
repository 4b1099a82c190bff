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

// TestLinearizable checks a history of concurrent compare-and-swaps around a restart of etcd.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	cfg := config(t, srv.Server)
	cfg.OpTimeout = time.Second
	const clients, each = 4, 40
	var (
		mu      sync.Mutex
		history []porcupine.Operation
		wg      sync.WaitGroup
		half    = make(chan struct{}, clients)
		start   = time.Now()
	)
	do := func(client int, in registerIn, fn func() registerOut) registerOut {
		op := porcupine.Operation{ClientId: client, Input: in, Call: time.Since(start).Nanoseconds()}
		out := fn()
		op.Output, op.Return = out, time.Since(start).Nanoseconds()
		mu.Lock()
		defer mu.Unlock()
		if out.unknown {
			op.Return = time.Hour.Nanoseconds() // it may take effect at any later time
		}
		history = append(history, op)
		return out
	}
	for c := range clients {
		s := open(t, cfg)
		wg.Go(func() {
			for i := range each {
				if i == each/2 {
					half <- struct{}{}
				}
				var rev int64
				read := do(c, registerIn{}, func() registerOut {
					item, err := s.Get(t.Context(), web)
					rev = item.Rev
					return registerOut{value: string(item.Value), unknown: err != nil && !errors.Is(err, record.ErrNotFound)}
				})
				if read.unknown {
					continue
				}
				to := fmt.Sprintf("%d-%d", c, i)
				do(c, registerIn{write: true, from: read.value, to: to}, func() registerOut {
					_, err := s.Commit(t.Context(), record.Put(web, []byte(to), rev))
					return registerOut{ok: err == nil, unknown: err != nil && !errors.Is(err, record.ErrConflict)}
				})
			}
		})
	}
	<-half
	srv.Stop()
	srv.start()
	wg.Wait()
	swaps := 0
	for _, op := range history {
		if op.Output.(registerOut).ok {
			swaps++
		}
	}
	if swaps < clients {
		t.Fatalf("only %d of %d operations swapped: the history proves nothing", swaps, len(history))
	}
	if result := porcupine.CheckOperationsTimeout(registerModel(), history, 20*time.Second); result != porcupine.Ok {
		t.Errorf("history of %d operations, %d swaps: %s", len(history), swaps, result)
	}
}
