package tracker

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Errors of Register.
var (
	// ErrUnknown: the torrent is not one of ours.
	ErrUnknown = errors.New("tracker: unknown infohash")
	// ErrAddress: the address is not "ip:port" with a port.
	ErrAddress = errors.New("tracker: bad peer address")
)

// Config says what a Tracker knows and how it answers. Zero values take the defaults named.
type Config struct {
	// Known reports whether an infohash (40 lower-case hexadecimal digits) may be tracked. Required.
	Known func(infohash string) bool
	// Host returns whose announce key this is. Required. It must be safe for concurrent use.
	Host func(announceKey string) (hostID, rack string, ok bool)
	// Interval is how often clients should announce; default 1 min. MinInterval is the least; default a quarter of it.
	Interval, MinInterval time.Duration
	// PeerTTL is how long a peer is kept after its last announce; default 2.5 intervals.
	PeerTTL time.Duration
	// DefaultWant and MaxWant bound the peers in one reply; defaults 30 and 200.
	DefaultWant, MaxWant int
	// Rate and Burst limit requests per second of one host; defaults 5 and 50.
	Rate  float64
	Burst int
	// Seed makes the choice of peers repeatable; 0 draws one.
	Seed uint64
}

// Peer is one peer of a torrent, for pushing over a session.
type Peer struct{ HostID, Addr string }

// Tracker remembers who takes part in which torrent. Create it with [New].
type Tracker struct {
	cfg Config

	mu     sync.Mutex
	swarms map[[20]byte]*ring
	limits map[string]*rate.Limiter // by host
	purged time.Time
}

const purgePeriod = time.Minute

// New returns a tracker without peers.
func New(cfg Config) *Tracker {
	if cfg.Interval <= 0 {
		cfg.Interval = time.Minute
	}
	if cfg.MinInterval <= 0 {
		cfg.MinInterval = cfg.Interval / 4
	}
	if cfg.PeerTTL <= 0 {
		cfg.PeerTTL = cfg.Interval * 5 / 2
	}
	if cfg.DefaultWant <= 0 {
		cfg.DefaultWant = 30
	}
	if cfg.MaxWant <= 0 {
		cfg.MaxWant = 200
	}
	if cfg.Rate <= 0 {
		cfg.Rate = 5
	}
	if cfg.Burst <= 0 {
		cfg.Burst = 50
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	return &Tracker{cfg: cfg, swarms: map[[20]byte]*ring{}, limits: map[string]*rate.Limiter{}, purged: time.Now()}
}

// Register puts a host with a live session into a torrent, or updates it. addr is "ip:port". It stays until Forget.
func (t *Tracker) Register(infohash, hostID, rack, addr string, complete bool) error {
	hash, err := parseHash(infohash)
	if err != nil {
		return err
	}
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || ap.Port() == 0 {
		return fmt.Errorf("%w: %q of host %s", ErrAddress, addr, hostID)
	}
	if !t.cfg.Known(hex.EncodeToString(hash[:])) {
		return fmt.Errorf("%w: %s", ErrUnknown, infohash)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ringLocked(hash).put(member{
		host: hostID, rack: rack, addr: netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), complete: complete, live: true,
	})
	return nil
}

// Forget takes a host out of every torrent, as when its session ended.
func (t *Tracker) Forget(hostID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.swarms {
		r.remove(hostID)
	}
	delete(t.limits, hostID)
}

// Peers chooses at most n peers of a torrent for a host, which need not take part itself.
func (t *Tracker) Peers(infohash, forHost string, n int) []Peer {
	hash, err := parseHash(infohash)
	if err != nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.swarms[hash]
	if !ok {
		return nil
	}
	r.expire(time.Now().Add(-t.cfg.PeerTTL))
	var out []Peer
	for _, m := range r.choose(forHost, n) {
		out = append(out, Peer{HostID: m.host, Addr: m.addr.String()})
	}
	return out
}

// Counts returns how many peers of a torrent have everything and how many do not.
func (t *Tracker) Counts(infohash string) (complete, incomplete int) {
	hash, err := parseHash(infohash)
	if err != nil {
		return 0, 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if r, ok := t.swarms[hash]; ok {
		return r.counts()
	}
	return 0, 0
}

// Purge forgets peers that stopped announcing, torrents that are no longer known, and idle rate limits.
func (t *Tracker) Purge() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.purgeLocked(time.Now())
}

func (t *Tracker) purgeLocked(now time.Time) {
	t.purged = now
	for hash, r := range t.swarms {
		r.expire(now.Add(-t.cfg.PeerTTL))
		if len(r.members) == 0 && r.downloads == 0 || !t.cfg.Known(hex.EncodeToString(hash[:])) {
			delete(t.swarms, hash)
		}
	}
	for host, l := range t.limits {
		if l.TokensAt(now) >= float64(t.cfg.Burst) {
			delete(t.limits, host)
		}
	}
}

func (t *Tracker) ringLocked(hash [20]byte) *ring {
	r, ok := t.swarms[hash]
	if !ok {
		r = newRing(t.cfg.Seed, hash)
		t.swarms[hash] = r
	}
	return r
}

// admit counts a request of a host against its rate.
func (t *Tracker) admit(host string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.purged) >= purgePeriod {
		t.purgeLocked(now)
	}
	l, ok := t.limits[host]
	if !ok {
		l = rate.NewLimiter(rate.Limit(t.cfg.Rate), t.cfg.Burst)
		t.limits[host] = l
	}
	return l.AllowN(now, 1)
}

func parseHash(s string) (hash [20]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(hash) {
		return hash, fmt.Errorf("%w: %q is not 40 hexadecimal digits", ErrUnknown, s)
	}
	return [20]byte(b), nil
}
