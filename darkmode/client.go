package darkmode

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/murmuration/murmuration/feature"
)

// Client reads flags. Make one with [New] for the process; it is safe for concurrent use.
type Client struct {
	cfg     Config
	servers []*url.URL
	http    *http.Client
	ownHTTP bool
	copy    *diskCopy // nil without one

	state atomic.Pointer[state] // never nil
	slots sync.Map              // flag key -> *slot
	usage usage

	// applyMu orders the changes of state and of slots.
	applyMu sync.Mutex

	healthMu sync.Mutex
	health   health

	emitMu sync.Mutex // one event at a time
	subMu  sync.Mutex
	subs   []*subscriber

	ready     chan struct{} // closed with the first state of a server
	readyOnce sync.Once

	runMu  sync.Mutex
	cancel context.CancelFunc // nil before Start
	closed bool
	wg     sync.WaitGroup

	// server is the index of the server in use, modulo their number.
	server atomic.Uint64

	// Used by runSync only.
	lastPoll     time.Time
	etag         string // of the snapshot of etagRevision
	etagRevision uint64
	older        int // snapshots in a row that were older than the state

	reportMu sync.Mutex
	unsent   []count

	save chan struct{} // asks for the disk copy to be written
	acks chan ack
}

// New returns a client that answers at once, from the disk copy, the bootstrap or defaults. It never fails and
// opens no connection; what is wrong with the configuration, the copy or the bootstrap is logged and in
// [Client.Status]. Call [Client.Start] to follow the server.
func New(cfg Config) *Client {
	cfg.setDefaults()
	c := &Client{cfg: cfg, servers: cfg.servers(), ready: make(chan struct{}), save: make(chan struct{}, 1), acks: make(chan ack, 1)}
	c.http, c.ownHTTP = cfg.httpClient()
	if cfg.CopyFile != "" {
		c.copy = &diskCopy{path: cfg.CopyFile, limit: cfg.MaxBytes}
	}
	c.state.Store(&state{set: &feature.Set{}})
	c.loadFirst()
	return c
}

// loadFirst takes the disk copy, or else the bootstrap.
func (c *Client) loadFirst() {
	if c.copy != nil {
		snap, err := c.copy.load()
		switch {
		case err != nil:
			c.trouble(err)
		case snap.Revision > 0:
			c.health.asOf = snap.AsOf
			c.replace(snap, FromDisk)
			return
		}
	}
	if len(c.cfg.Bootstrap) == 0 {
		return
	}
	snap, err := decodeSnapshot(c.cfg.Bootstrap)
	if err != nil {
		c.trouble(errors.Join(errors.New("bootstrap is not used"), err))
		return
	}
	c.replace(snap, FromBootstrap)
}

// Start follows the server in the background until ctx ends or [Client.Close]. It returns at once. Further calls, and
// calls after Close, do nothing.
func (c *Client) Start(ctx context.Context) {
	c.runMu.Lock()
	defer c.runMu.Unlock()
	if c.closed || c.cancel != nil {
		return
	}
	ctx, c.cancel = context.WithCancel(ctx)
	if c.copy != nil {
		c.wg.Go(func() { c.runSaver(ctx) })
	}
	if len(c.servers) == 0 {
		return
	}
	c.wg.Go(func() { c.runSync(ctx) })
	c.wg.Go(func() { c.runAcks(ctx) })
	c.wg.Go(func() { c.runStale(ctx) })
	if c.cfg.ReportInterval > 0 {
		c.wg.Go(func() { c.runReports(ctx) })
	}
}

// Close stops following the server, writes the disk copy, sends the last counts (for at most 2 s) and waits until
// nothing of the client runs any more. Reads go on with the last state. Its error is the disk copy's.
func (c *Client) Close() error {
	c.runMu.Lock()
	defer c.runMu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	if c.cancel == nil {
		return nil
	}
	c.cancel()
	c.wg.Wait()
	if c.cfg.ReportInterval > 0 && len(c.servers) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		c.report(ctx)
		cancel()
	}
	if c.ownHTTP {
		c.http.CloseIdleConnections()
	}
	return c.saveCopy()
}

// Ready is closed when the first state from a server is in use. A program that works without one need not wait:
// reads answer from the disk copy or the bootstrap before.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// replace takes a whole state.
func (c *Client) replace(snap snapshot, from Source) {
	c.apply(from, func(s *state) (*state, error) { return s.replaced(snap, from) })
}

// apply makes the next state and publishes it: first the state, then the slots, then the news.
func (c *Client) apply(from Source, change func(*state) (*state, error)) {
	c.applyMu.Lock()
	before := c.state.Load()
	next, err := change(before)
	if next == nil {
		c.applyMu.Unlock()
		return
	}
	keys := next.set.Changed(before.set)
	c.state.Store(next)
	now := time.Now()
	for _, key := range keys {
		if s, ok := c.slots.Load(key); ok {
			s.(*slot).refresh(next, now)
		}
	}
	c.applyMu.Unlock()
	if err != nil {
		c.cfg.Logger.Error("flags: a definition does not compile; its last good form stays", "revision", next.revision, "err", err)
	}
	if from != FromServer {
		return
	}
	c.wantSave()
	c.confirmed()
	if len(keys) > 0 {
		c.emit(FlagsChanged, keys)
	}
}

func (c *Client) wantSave() {
	select {
	case c.save <- struct{}{}:
	default:
	}
}
