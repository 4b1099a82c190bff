package tracker

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// member is one peer of one torrent.
type member struct {
	host, rack string
	addr       netip.AddrPort
	peerID     string // 20 bytes, of the last announce; "" when fed by a session
	complete   bool
	live       bool // fed by a session: does not expire
	seen       time.Time

	rackKey, hostKey uint64 // place on the ring
}

// ring is the peers of one torrent, ordered so that a rack stands together. It is not safe for concurrent use.
type ring struct {
	seed      uint64
	members   []*member // by place
	byHost    map[string]*member
	seeds     []*member // those with complete, by place
	downloads int64     // completed events seen
}

func newRing(seed uint64, hash [20]byte) *ring {
	return &ring{seed: seed ^ binary.BigEndian.Uint64(hash[:8]), byHost: map[string]*member{}}
}

func (r *ring) key(s string) uint64 {
	h := fnv.New64a()
	var seed [8]byte
	binary.BigEndian.PutUint64(seed[:], r.seed)
	h.Write(seed[:])
	h.Write([]byte(s))
	x := h.Sum64() // FNV spreads the low bits; finish it so that the order is random
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	return x ^ x>>33
}

func place(a, b *member) int {
	return cmp.Or(
		cmp.Compare(a.rackKey, b.rackKey), cmp.Compare(a.rack, b.rack),
		cmp.Compare(a.hostKey, b.hostKey), cmp.Compare(a.host, b.host),
	)
}

// put adds a peer or replaces the one of the same host. Who announced after registering stays registered.
func (r *ring) put(m member) {
	if old := r.byHost[m.host]; old != nil {
		m.live = m.live || old.live
		r.remove(m.host)
	}
	m.rackKey, m.hostKey = r.key(m.rack), r.key(m.host)
	r.byHost[m.host] = &m
	r.members = insert(r.members, &m)
	if m.complete {
		r.seeds = insert(r.seeds, &m)
	}
}

func (r *ring) remove(host string) {
	m, ok := r.byHost[host]
	if !ok {
		return
	}
	delete(r.byHost, host)
	r.members = without(r.members, m)
	if m.complete {
		r.seeds = without(r.seeds, m)
	}
}

func insert(s []*member, m *member) []*member {
	i, _ := slices.BinarySearchFunc(s, m, place)
	return slices.Insert(s, i, m)
}

func without(s []*member, m *member) []*member {
	i, ok := slices.BinarySearchFunc(s, m, place)
	if !ok {
		return s
	}
	return slices.Delete(s, i, i+1)
}

// expire removes peers not seen since before.
func (r *ring) expire(before time.Time) {
	gone := func(m *member) bool { return !m.live && m.seen.Before(before) }
	if !slices.ContainsFunc(r.members, gone) {
		return
	}
	for _, m := range r.members {
		if gone(m) {
			delete(r.byHost, m.host)
		}
	}
	r.members = slices.DeleteFunc(r.members, gone)
	r.seeds = slices.DeleteFunc(r.seeds, gone)
}

func (r *ring) counts() (complete, incomplete int) {
	return len(r.seeds), len(r.members) - len(r.seeds)
}

// picker collects the peers of one answer.
type picker struct {
	self  *member
	n     int
	taken map[*member]bool
	out   []*member
}

func (p *picker) full() bool { return len(p.out) >= p.n }

// take adds m unless it is the asker, is there already, or is of no use to it.
func (p *picker) take(m *member) bool {
	if p.full() || m.host == p.self.host || p.taken[m] || p.self.complete && m.complete {
		return false
	}
	p.taken[m] = true
	p.out = append(p.out, m)
	return true
}

// choose picks at most n peers for a host; see the package documentation for the order.
func (r *ring) choose(host string, n int) []*member {
	total := len(r.members)
	if n <= 0 || total == 0 {
		return nil
	}
	self, ok := r.byHost[host]
	if !ok { // not in the torrent: ask from where it would stand, without a rack
		self = &member{host: host, rackKey: r.key(""), hostKey: r.key(host)}
	}
	pos, _ := slices.BinarySearchFunc(r.members, self, place)
	lo, hi := r.rackOf(self, pos)
	p := &picker{self: self, n: n, taken: make(map[*member]bool, n)}
	next := pos
	if ok {
		next = pos + 1
	}
	p.take(r.members[next%total])
	if len(r.seeds) > 0 && !slices.ContainsFunc(p.out, func(m *member) bool { return m.complete }) {
		p.take(r.seeds[self.hostKey%uint64(len(r.seeds))])
	}
	near, far := hi-lo, total-(hi-lo)
	reserved := max(1, n/3)
	r.walk(p, r.members, hi, far, pos-lo, reserved)
	r.walk(p, r.members, lo, near, pos-lo, n)
	r.walk(p, r.members, hi, far, pos-lo, n)
	return p.out
}

// rackOf returns the places [lo, hi) of the asker's rack.
func (r *ring) rackOf(self *member, pos int) (lo, hi int) {
	same := func(m *member) bool { return m.rackKey == self.rackKey && m.rack == self.rack }
	lo, _ = slices.BinarySearchFunc(r.members, self, func(m, s *member) int {
		return cmp.Or(cmp.Compare(m.rackKey, s.rackKey), cmp.Compare(m.rack, s.rack), 1)
	})
	hi, _ = slices.BinarySearchFunc(r.members, self, func(m, s *member) int {
		return cmp.Or(cmp.Compare(m.rackKey, s.rackKey), cmp.Compare(m.rack, s.rack), -1)
	})
	if lo == hi || !same(r.members[lo]) {
		return pos, pos
	}
	return lo, hi
}

// walk takes up to want peers from the arc of size places that starts at start, at the torrent's random distances from
// the asker's own offset: the same distances for everybody, so that nobody is named more often than others.
func (r *ring) walk(p *picker, members []*member, start, size, offset, want int) {
	if size == 0 {
		return
	}
	rng := rand.New(rand.NewPCG(r.seed, uint64(size)))
	at := func(d int) *member { return members[(start+(offset+d)%size)%len(members)] }
	for tries := 0; tries < 4*p.n && want > 0 && !p.full(); tries++ {
		if p.take(at(rng.IntN(size))) {
			want--
		}
	}
	for d := 0; d < size && want > 0 && !p.full() && size <= 8*p.n; d++ { // few places: take what chance left out
		if p.take(at(d)) {
			want--
		}
	}
}
