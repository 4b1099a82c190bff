package swarm

import (
	"math/rand/v2"
	"sync"
	"time"
)

// deck decides which piece the seeder shows to whom, so that every piece leaves it once and the hosts exchange the rest
// (the idea of BEP 16, for many hosts at a time). It is pure bookkeeping: no I/O, time is an argument. Safe for concurrent use.
//
// A piece is shown to one host at a time. When that host announces it, the next is shown. A piece that nobody connected
// has any more goes back on the deck. When the deck is empty, a piece that takes too long at one host is shown to another,
// and a host that gets nothing from the others is shown what it misses, a few pieces at a time.
type deck struct {
	meta   Meta
	window int // pieces shown to a host and not yet announced by it

	mu    sync.Mutex
	avail []int // connected hosts that have the piece, plus evicted ones
	open  []int // hosts it is shown to and that have not announced it
	cards []int // pieces nobody has or is shown, last first
	piled []bool
	hands map[*hand]struct{}
	took  gap // moving average of the time from showing to announcement
}

// hand is one connected host.
type hand struct {
	name    string
	have    bitmap
	count   int
	shown   bitmap
	waiting map[int]time.Time // shown, not yet announced
	last    time.Time         // of the last announcement, or of the connection
	rescue  bool              // it gets nothing from the others
	wake    chan struct{}
	evict   func()
}

const (
	dealAhead  = 256 << 10 // bytes shown to a host ahead of its announcements
	hedgeTimes = 4
	minHedge   = time.Second
	rescueWait = 2 * time.Second
)

func newDeck(m Meta) *deck {
	d := &deck{
		meta: m, window: int(max(2, dealAhead/m.PieceLength)),
		avail: make([]int, m.Pieces), open: make([]int, m.Pieces), piled: make([]bool, m.Pieces), hands: map[*hand]struct{}{},
	}
	for _, i := range rand.Perm(m.Pieces) {
		d.pileLocked(i)
	}
	return d
}

func (d *deck) pileLocked(i int) {
	if !d.piled[i] {
		d.piled[i] = true
		d.cards = append(d.cards, i)
	}
}

// sit adds a host, at most limit at a time. When there is no room, a host that has everything makes some.
func (d *deck) sit(name string, limit int, now time.Time) (*hand, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.hands) >= limit && !d.makeRoomLocked() {
		return nil, false
	}
	h := &hand{
		name: name, have: newBitmap(d.meta.Pieces), shown: newBitmap(d.meta.Pieces), waiting: map[int]time.Time{},
		last: now, wake: make(chan struct{}, 1), evict: func() {},
	}
	d.hands[h] = struct{}{}
	return h, true
}

// makeRoomLocked sends a complete host away. It goes on serving the others, so its pieces still count.
func (d *deck) makeRoomLocked() bool {
	for h := range d.hands {
		if h.count == d.meta.Pieces {
			delete(d.hands, h)
			go h.evict()
			return true
		}
	}
	return false
}

// leave takes a host out; what nobody else has or is shown goes back on the deck.
func (d *deck) leave(h *hand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.hands[h]; !ok {
		return
	}
	delete(d.hands, h)
	for i := range d.meta.Pieces {
		_, waits := h.waiting[i]
		if waits {
			d.open[i]--
		}
		if h.have.has(i) {
			d.avail[i]--
		}
		if (waits || h.have.has(i)) && d.avail[i] == 0 && d.open[i] == 0 {
			d.pileLocked(i)
		}
	}
	for other := range d.hands {
		other.nudge()
	}
}

func (h *hand) nudge() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// has notes that a host announced a piece.
func (d *deck) has(h *hand, i int, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i < 0 || i >= d.meta.Pieces || h.have.has(i) {
		return
	}
	if _, ok := d.hands[h]; !ok {
		return
	}
	h.have.set(i)
	h.count++
	h.last = now
	d.avail[i]++
	since, waits := h.waiting[i]
	if waits {
		delete(h.waiting, i)
		d.open[i]--
		d.took.add(now.Sub(since))
	} else if !h.shown.has(i) {
		h.rescue = false // the others do give it something
	}
	h.nudge()
}

// deal returns the pieces to show to a host now.
func (d *deck) deal(h *hand, now time.Time) []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.Sub(h.last) > rescueWait && len(h.waiting) == 0 && h.count < d.meta.Pieces {
		h.rescue = true
	}
	var out []int
	for len(h.waiting) < d.window {
		i, ok := d.pickLocked(h, now)
		if !ok {
			break
		}
		h.shown.set(i)
		h.waiting[i] = now
		d.open[i]++
		out = append(out, i)
	}
	return out
}

func (d *deck) pickLocked(h *hand, now time.Time) (int, bool) {
	if i, ok := d.drawLocked(h); ok {
		return i, true
	}
	if len(d.cards) == 0 {
		if i, ok := d.lateLocked(h, now); ok {
			return i, true
		}
	}
	if h.rescue {
		return d.missingLocked(h)
	}
	return 0, false
}

// drawLocked takes the next piece of the deck that the host can use.
func (d *deck) drawLocked(h *hand) (int, bool) {
	for k := len(d.cards) - 1; k >= 0; k-- {
		i := d.cards[k]
		if d.avail[i] == 0 && (h.have.has(i) || h.shown.has(i)) {
			continue
		}
		d.cards = append(d.cards[:k], d.cards[k+1:]...)
		d.piled[i] = false
		if d.avail[i] == 0 {
			return i, true
		}
	}
	return 0, false
}

// lateLocked finds a piece that another host is shown for too long and that nobody has.
func (d *deck) lateLocked(h *hand, now time.Time) (int, bool) {
	limit := max(minHedge, hedgeTimes*time.Duration(d.took))
	for other := range d.hands {
		if other == h {
			continue
		}
		for i, since := range other.waiting {
			if now.Sub(since) > limit && d.avail[i] == 0 && d.open[i] == 1 && !h.shown.has(i) {
				return i, true
			}
		}
	}
	return 0, false
}

// missingLocked finds a piece that the host lacks and was not shown.
func (d *deck) missingLocked(h *hand) (int, bool) {
	start := rand.IntN(d.meta.Pieces)
	for k := range d.meta.Pieces {
		if i := (start + k) % d.meta.Pieces; !h.have.has(i) && !h.shown.has(i) {
			return i, true
		}
	}
	return 0, false
}
