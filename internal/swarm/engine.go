package swarm

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anacrolix/torrent"
	pp "github.com/anacrolix/torrent/peer_protocol"
	"golang.org/x/time/rate"
)

// Engine holds the torrents of one process. All methods are safe for concurrent use.
type Engine struct {
	cfg    Config
	log    *slog.Logger
	names  *names
	net    *transport
	client *torrent.Client
	watch  *watch
	recs   records
	open   openFunc
	// patience is the longest wait for progress before anything was measured; tests shorten it.
	patience time.Duration

	ctx    context.Context // ends with the Engine; its cause is ErrClosed
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	tasks map[[20]byte]*task
	early earlyPeers
}

const (
	defaultMaxPeers = 40
	patrolPeriod    = 500 * time.Millisecond
	calmAfter       = 10 * time.Second // without an open order, before the patrol sleeps
	pipeline        = 32               // blocks a peer may have on order from us: about what one round trip in a data centre needs
)

// New starts an engine listening on cfg.Listen. Stop it with [Engine.Close].
func New(cfg Config) (*Engine, error) { return newEngine(cfg, osOpen) }

func newEngine(cfg Config, open openFunc) (*Engine, error) {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	recs, err := openRecords(cfg.Dir)
	if err != nil {
		return nil, err
	}
	n := newNames()
	tr, err := newTransport(cfg, n, log)
	if err != nil {
		return nil, errors.Join(err, recs.close())
	}
	if cfg.ServerTLS == nil {
		log.Warn("swarm: PLAINTEXT PEERS: anybody who reaches this port and knows an infohash can read the data", "addr", tr.Addr().String())
	}
	e := &Engine{
		cfg: cfg, log: log, names: n, net: tr, recs: recs, open: open, watch: newWatch(n), tasks: map[[20]byte]*task{}, early: earlyPeers{}, patience: maxPatience,
	}
	e.ctx, e.cancel = context.WithCancelCause(context.Background())
	e.client, err = torrent.NewClient(e.clientConfig())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("swarm: torrent engine: %w", err), tr.close(), recs.close())
	}
	if cfg.Deal > 0 {
		tr.route = e.route
	}
	e.client.AddListener(tr)
	e.client.AddDialer(tr)
	tr.start()
	e.wg.Go(e.patrol)
	return e, nil
}

// route gives a connection to the torrent's dealer, if it has one.
func (e *Engine) route(hash [20]byte, name string, c net.Conn) bool {
	e.mu.Lock()
	t := e.tasks[hash]
	e.mu.Unlock()
	if t == nil {
		return false
	}
	t.mu.Lock()
	d := t.dealer
	t.mu.Unlock()
	if d == nil {
		return false
	}
	d.take(name, c)
	return true
}

// clientConfig sets every knob that matters in a private swarm inside data centres.
func (e *Engine) clientConfig() *torrent.ClientConfig {
	c := torrent.NewDefaultClientConfig()
	c.Slogger = slog.New(slog.DiscardHandler)
	c.DisableTCP, c.DisableUTP, c.NoDHT, c.DisablePEX = true, true, true, true
	c.DisableTrackers, c.DisableWebtorrent, c.DisableWebseeds, c.NoDefaultPortForwarding = true, true, true, true
	c.ListenPort = 0
	c.Extensions = pp.NewPeerExtensionBytes(pp.ExtensionBitLtep, pp.ExtensionBitFast)
	c.HeaderObfuscationPolicy = torrent.HeaderObfuscationPolicy{Preferred: false, RequirePreferred: e.cfg.ServerTLS != nil}
	c.Seed = true // without it a leecher gives away next to nothing
	c.DropDuplicatePeerIds = true
	c.AlwaysWantConns = true
	c.DialRateLimiter = rate.NewLimiter(rate.Inf, 0)
	c.EstablishedConnsPerTorrent = defaultMaxPeers
	if e.cfg.MaxPeers > 0 {
		c.EstablishedConnsPerTorrent = e.cfg.MaxPeers
	}
	c.HalfOpenConnsPerTorrent, c.TotalHalfOpenConns = 50, 200
	c.TorrentPeersHighWater = 2000
	c.NominalDialTimeout, c.MinDialTimeout = dialTimeout+handshakeTimeout, dialTimeout+handshakeTimeout
	c.HandshakesTimeout = handshakeTimeout
	c.KeepAliveTimeout = 3 * time.Second // also bounds a lost wake-up of a connection's writer
	c.MaxAllocPeerRequestDataPerConn = 256 << 10
	c.StealRequestGrace = 100 * time.Millisecond
	c.PeerID = ""
	c.DefaultStorage = noStorage{} // every torrent brings its own; the engine's default would open a database
	e.watch.install(&c.Callbacks)
	return c
}

// Addr returns the address peers dial.
func (e *Engine) Addr() net.Addr { return e.net.Addr() }

// Close stops every Fetch, records what was verified and ends all connections. Later calls return nil.
func (e *Engine) Close() error { return e.shutdown(true) }

func (e *Engine) shutdown(flush bool) error {
	if e.ctx.Err() != nil {
		return nil
	}
	e.cancel(ErrClosed)
	e.mu.Lock()
	tasks := e.tasks
	e.tasks = map[[20]byte]*task{}
	e.mu.Unlock()
	var errs []error
	for _, t := range tasks {
		errs = append(errs, t.end(ErrClosed, flush))
	}
	errs = append(errs, e.client.Close()...)
	errs = append(errs, e.net.close())
	e.wg.Wait()
	errs = append(errs, e.recs.close())
	return errors.Join(errs...)
}

// Fetch brings the torrent's file to spec.Path and returns when every piece is verified and the file is synced and in
// place; the Engine then goes on offering it. It asks for nothing that an earlier Fetch, even of a killed process,
// verified. progress may be nil; it is called from this goroutine, at most a few times a second and once at the end.
//
// When ctx ends or the disk fails ([ErrStorage]), what was verified is kept and the torrent is no longer held: call
// again to go on. A second Fetch of the same torrent waits for the first. Fetch never gives up because peers are missing.
func (e *Engine) Fetch(ctx context.Context, spec Spec, progress func(Progress)) error {
	if progress == nil {
		progress = func(Progress) {}
	}
	t, err := e.acquire(ctx, spec)
	if err != nil {
		return err
	}
	defer t.release()
	err = t.fetch(ctx, spec, progress)
	if err != nil {
		e.forget(t)
		return errors.Join(fmt.Errorf("swarm: fetch %s: %w", spec.Infohash, err), t.stop(true))
	}
	return nil
}

// Seed offers the complete file at spec.Path. A file recorded as complete and unchanged since (size and modification
// time) is believed; any other is hashed first, and [ErrCorrupt] says that it does not match.
func (e *Engine) Seed(ctx context.Context, spec Spec) error {
	t, err := e.acquire(ctx, spec)
	if err != nil {
		return err
	}
	defer t.release()
	if err := t.seed(ctx, spec); err != nil {
		e.forget(t)
		return errors.Join(fmt.Errorf("swarm: seed %s: %w", spec.Infohash, err), t.stop(true))
	}
	return nil
}

// AddPeers tells a torrent about more peers, also while it is being fetched. Peers of a torrent that is not held
// yet are kept for its Fetch, within bounds.
func (e *Engine) AddPeers(infohash string, peers []Peer) {
	hash, err := parseHash(infohash)
	if err != nil {
		return
	}
	e.mu.Lock()
	t := e.tasks[hash]
	if t == nil {
		e.early.add(hash, peers)
	}
	e.mu.Unlock()
	if t != nil {
		t.addPeers(peers)
	}
}

// Drop stops a torrent, makes a running Fetch return [ErrDropped], and forgets its record. Its files stay.
func (e *Engine) Drop(infohash string) {
	t := e.task(infohash)
	if t == nil {
		return
	}
	e.forget(t)
	if err := errors.Join(t.end(ErrDropped, false), e.recs.remove(t.store.hash)); err != nil {
		e.log.Warn("swarm: drop", "infohash", infohash, "err", err)
	}
}

// Stats describes a torrent, and reports false for one that is not held.
func (e *Engine) Stats(infohash string) (Stats, bool) {
	t := e.task(infohash)
	if t == nil {
		return Stats{}, false
	}
	s := t.stats()
	s.Quarantined = e.names.quarantined(time.Now())
	slices.Sort(s.Quarantined)
	return s, true
}

func (e *Engine) task(infohash string) *task {
	hash, err := parseHash(infohash)
	if err != nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tasks[hash]
}

// acquire returns the torrent's task, made when new, and waits until it is ours alone.
func (e *Engine) acquire(ctx context.Context, spec Spec) (*task, error) {
	for {
		fresh, err := e.newTask(spec)
		if err != nil {
			return nil, err
		}
		e.mu.Lock()
		if e.ctx.Err() != nil {
			e.mu.Unlock()
			return nil, ErrClosed
		}
		t, ok := e.tasks[fresh.store.hash]
		var early []Peer
		if !ok {
			t = fresh
			e.tasks[t.store.hash] = t
			early = e.early.take(t.store.hash)
		}
		e.mu.Unlock()
		t.addPeers(early)
		if t.store.path != fresh.store.path {
			return nil, fmt.Errorf("%w: %s", ErrBusy, t.store.path)
		}
		select {
		case t.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if t.ctx.Err() == nil {
			return t, nil
		}
		t.release() // it failed or was dropped while we waited
	}
}

// newTask checks a spec and prepares a task that holds nothing yet.
func (e *Engine) newTask(spec Spec) (*task, error) {
	hash, err := parseHash(spec.Infohash)
	if err != nil {
		return nil, err
	}
	if sha1.Sum(spec.Info) != hash {
		return nil, fmt.Errorf("%w: it does not hash to %s", ErrBadInfo, spec.Infohash)
	}
	info, meta, err := decodeInfo(spec.Info)
	if err != nil {
		return nil, err
	}
	t := &task{e: e, turn: make(chan struct{}, 1), changed: make(chan struct{}, 1), peers: map[string]Peer{}}
	t.ctx, t.cancel = context.WithCancelCause(e.ctx)
	t.store = &store{hash: hash, meta: meta, sums: info.Pieces, path: spec.Path, recs: e.recs, stale: t.wake}
	return t, nil
}

func (e *Engine) forget(t *task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tasks[t.store.hash] == t {
		delete(e.tasks, t.store.hash)
	}
}

// patrol ends connections that do not answer and learns whom the engine banned. It sleeps while nobody owes us
// anything and for a while nobody did: an engine that only offers costs its host nothing.
func (e *Engine) patrol() {
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-e.watch.busy:
			e.patrolWhileBusy()
		}
	}
}

// patrolWhileBusy returns when the last order is answered and what came in has been hashed and judged.
func (e *Engine) patrolWhileBusy() {
	ticker := time.NewTicker(patrolPeriod)
	defer ticker.Stop()
	last := time.Now()
	var starved time.Time // when this process last waited for a processor: it cannot judge others then
	for owed := last; last.Sub(owed) <= calmAfter; {
		select {
		case <-e.ctx.Done():
			return
		case <-ticker.C:
			now := time.Now()
			if now.Sub(last) > patrolPeriod*3/2 {
				starved = now
			}
			last = now
			if now.Sub(starved) > minPatience {
				e.endSilent(now)
			}
			for _, name := range e.names.banned(e.client.BadPeerIPs(), now) {
				e.log.Warn("swarm: peer sent bad data and is in quarantine", "peer", name, "for", quarantine)
			}
			if e.watch.owed() {
				owed = now
			}
		}
	}
}

// endSilent ends the connections that ran out of patience.
func (e *Engine) endSilent(now time.Time) {
	for _, s := range e.watch.silent(now) {
		e.log.Info("swarm: peer leaves requests unanswered, connection ended", "peer", s.name, "after", s.after)
		e.names.unanswered(s.name, now)
		s.peer.Close()
	}
}

func parseHash(s string) (hash [20]byte, err error) {
	b, err := hex.DecodeString(strings.ToLower(s))
	if err != nil || len(b) != len(hash) {
		return hash, fmt.Errorf("%w: infohash %q is not 40 hexadecimal digits", ErrBadInfo, s)
	}
	return [20]byte(b), nil
}
