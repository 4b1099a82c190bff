package flagd

import (
	"crypto/rand"
	mrand "math/rand/v2"
	"sync"
	"time"
)

// hub knows the open streams: it admits them, and counts who has confirmed a kill. It is safe for concurrent use.
type hub struct {
	max  int
	rate float64 // streams admitted per second

	mu      sync.Mutex
	streams map[string]*stream // native ones, by id
	open    int                // of both sorts
	tokens  float64
	filled  time.Time
	waiters map[*waiter]struct{}

	opened, refusedFull, refusedRate uint64
}

// stream is one open native stream. Its fields belong to the hub.
type stream struct {
	id, client string
	acked      int64
}

// waiter waits until streams have confirmed a revision.
type waiter struct {
	rev       int64
	missing   map[*stream]struct{}
	total     int
	confirmed int
	begun     time.Time
	done      chan struct{} // closed when nobody is missing
}

func newHub(limit, rate int) *hub {
	return &hub{
		max: limit, rate: float64(rate), tokens: float64(rate), filled: time.Now(),
		streams: map[string]*stream{}, waiters: map[*waiter]struct{}{},
	}
}

// enter admits a stream, or says how many seconds to stay away. The wait is random, so that those who are refused
// together do not come back together.
func (h *hub) enter() (retryAfter int, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.tokens = min(h.tokens+now.Sub(h.filled).Seconds()*h.rate, h.rate)
	h.filled = now
	switch {
	case h.open >= h.max:
		h.refusedFull++
		return 10 + mrand.IntN(21), false
	case h.tokens < 1:
		h.refusedRate++
		return 1 + mrand.IntN(10), false
	}
	h.tokens--
	h.open++
	h.opened++
	return 0, true
}

// leave ends what enter began.
func (h *hub) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open--
}

// join makes an admitted stream one that can confirm.
func (h *hub) join(client string) *stream {
	st := &stream{id: rand.Text(), client: client}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.streams[st.id] = st
	return st
}

// part takes a stream out again; nobody waits for it any longer.
func (h *hub) part(st *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, st.id)
	for w := range h.waiters {
		w.settle(st, false)
	}
}

// ack notes that a stream's client uses a revision. It returns the longest wait this ended, for the kill latency.
func (h *hub) ack(id string, rev int64) (took []time.Duration, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st, ok := h.streams[id]
	if !ok {
		return nil, false
	}
	st.acked = max(st.acked, rev)
	for w := range h.waiters {
		if st.acked >= w.rev && w.settle(st, true) {
			took = append(took, time.Since(w.begun))
		}
	}
	return took, true
}

// settle ends the wait for one stream, and reports whether it was waited for.
func (w *waiter) settle(st *stream, confirmed bool) bool {
	if _, ok := w.missing[st]; !ok {
		return false
	}
	delete(w.missing, st)
	if confirmed {
		w.confirmed++
	}
	if len(w.missing) == 0 {
		close(w.done)
	}
	return true
}

// await begins to wait until all present streams have confirmed a revision. End it with finish.
func (h *hub) await(begun time.Time) *waiter {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := &waiter{rev: 1 << 62, missing: make(map[*stream]struct{}, len(h.streams)), begun: begun, done: make(chan struct{})}
	for _, st := range h.streams {
		w.missing[st] = struct{}{}
	}
	w.total = len(w.missing)
	if w.total == 0 {
		close(w.done)
	}
	h.waiters[w] = struct{}{}
	return w
}

// expect says which revision a wait is for, once it is known; confirmations that came meanwhile count.
func (h *hub) expect(w *waiter, rev int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.rev = rev
	for st := range w.missing {
		if st.acked >= rev {
			w.settle(st, true)
		}
	}
}

// finish ends a wait and returns how many were asked and how many have confirmed.
func (h *hub) finish(w *waiter) (total, confirmed int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waiters, w)
	return w.total, w.confirmed
}

// hubStats is a look at the hub for metrics.
type hubStats struct {
	open, native                     int
	opened, refusedFull, refusedRate uint64
}

func (h *hub) stats() hubStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return hubStats{h.open, len(h.streams), h.opened, h.refusedFull, h.refusedRate}
}
