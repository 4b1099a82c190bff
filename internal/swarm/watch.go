package swarm

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/anacrolix/torrent"
	pp "github.com/anacrolix/torrent/peer_protocol"
)

// counts are the block bytes of one torrent by where they came from.
type counts struct {
	peers, seeder, silenced atomic.Int64
}

func (c *counts) useful() int64 { return c.peers.Load() + c.seeder.Load() }

// watch listens to the engine's callbacks and knows, for every connection, what it owes us. Callbacks run under the
// engine's lock, so nothing here calls the engine.
type watch struct {
	names *names
	// busy holds a token when there were orders since it was last taken.
	busy chan struct{}

	mu    sync.Mutex
	tasks map[[20]byte]*task
	gaps  map[[20]byte]gap // over all connections of a torrent
	conns map[*torrent.Peer]*debt
}

// debt is what one connection owes.
type debt struct {
	hash   [20]byte
	name   string
	orders int       // requests without answer
	since  time.Time // of the last answer, or of the first order after none was open
	gap    gap
}

// gap is a moving average of the time between answers of a connection that has orders.
type gap time.Duration

func (g *gap) add(d time.Duration) {
	if *g == 0 {
		*g = gap(d)
		return
	}
	*g += (gap(d) - *g) / 8
}

const (
	minPatience  = 2 * time.Second
	maxPatience  = 10 * time.Second
	patientTimes = 8
)

// patience derives how long to wait for an answer from measured gaps; without any, as long as we ever wait.
func patience(gaps ...gap) time.Duration {
	var worst gap
	for _, g := range gaps {
		worst = max(worst, g)
	}
	if worst == 0 {
		return maxPatience
	}
	return min(max(patientTimes*time.Duration(worst), minPatience), maxPatience)
}

func newWatch(n *names) *watch {
	return &watch{names: n, busy: make(chan struct{}, 1), tasks: map[[20]byte]*task{}, gaps: map[[20]byte]gap{}, conns: map[*torrent.Peer]*debt{}}
}

func (w *watch) install(cb *torrent.Callbacks) {
	cb.ReadExtendedHandshake = func(_ *torrent.PeerConn, m *pp.ExtendedHandshakeMessage) {
		if m.Reqq == 0 || m.Reqq > pipeline {
			m.Reqq = pipeline // a deep queue delays the first piece that can be passed on
		}
	}
	cb.SentRequest = append(cb.SentRequest, func(ev torrent.PeerRequestEvent) { w.ordered(ev.Peer, time.Now()) })
	cb.DeletedRequest = append(cb.DeletedRequest, func(ev torrent.PeerRequestEvent) { w.settled(ev.Peer) })
	cb.ReceivedRequested = append(cb.ReceivedRequested, func(ev torrent.PeerMessageEvent) { w.answered(ev.Peer, time.Now()) })
	cb.ReceivedUsefulData = append(cb.ReceivedUsefulData, func(ev torrent.ReceivedUsefulDataEvent) {
		w.received(ev.Peer, int64(len(ev.Message.Piece)))
	})
	cb.PeerClosed = append(cb.PeerClosed, func(p *torrent.Peer) {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.conns, p)
	})
}

func (w *watch) add(t *task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tasks[t.store.hash] = t
}

func (w *watch) remove(t *task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tasks[t.store.hash] == t {
		delete(w.tasks, t.store.hash)
		delete(w.gaps, t.store.hash)
	}
}

func (w *watch) debtLocked(p *torrent.Peer) *debt {
	d, ok := w.conns[p]
	if !ok {
		d = &debt{hash: p.Torrent().InfoHash(), name: w.names.nameOf(p.RemoteAddr.String())}
		w.conns[p] = d
	}
	return d
}

func (w *watch) ordered(p *torrent.Peer, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.debtLocked(p)
	if d.orders == 0 {
		d.since = now
		select {
		case w.busy <- struct{}{}:
		default:
		}
	}
	d.orders++
}

// owed takes the token of busy, and says whether any connection owes an answer or did since the token was taken last.
func (w *watch) owed() bool {
	select {
	case <-w.busy:
		return true
	default:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.conns {
		if d.orders > 0 {
			return true
		}
	}
	return false
}

func (w *watch) settled(p *torrent.Peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d, ok := w.conns[p]; ok && d.orders > 0 {
		d.orders--
	}
}

func (w *watch) answered(p *torrent.Peer, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.debtLocked(p)
	if d.since.IsZero() {
		d.since = now
	}
	took := now.Sub(d.since)
	d.gap.add(took)
	all := w.gaps[d.hash]
	all.add(took)
	w.gaps[d.hash] = all
	d.since = now
	w.names.answered(d.name)
}

func (w *watch) received(p *torrent.Peer, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.debtLocked(p)
	t := w.tasks[d.hash]
	if t == nil {
		return
	}
	if isSeeder(d.name) {
		t.count.seeder.Add(n)
	} else {
		t.count.peers.Add(n)
	}
}

// silence is a connection that owes an answer for too long.
type silence struct {
	peer  *torrent.Peer
	name  string
	after time.Duration
}

// silent returns, and forgets, the connections that ran out of patience.
func (w *watch) silent(now time.Time) []silence {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []silence
	for p, d := range w.conns {
		after := now.Sub(d.since)
		if d.orders == 0 || after <= patience(d.gap, w.gaps[d.hash]) {
			continue
		}
		out = append(out, silence{p, d.name, after})
		delete(w.conns, p)
		if t := w.tasks[d.hash]; t != nil {
			t.count.silenced.Add(1)
		}
	}
	return out
}
