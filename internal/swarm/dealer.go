package swarm

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/metainfo"
	pp "github.com/anacrolix/torrent/peer_protocol"
	"github.com/anacrolix/torrent/storage"
)

// dealer serves one complete torrent by a deck. Every connected host has an engine client of its own, which claims only the
// pieces shown to that host: all other peers speak the plain protocol and notice nothing.
type dealer struct {
	e    *Engine
	t    *task
	info []byte
	deck *deck
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[*dealtConn]*torrent.Torrent
	sent   atomic.Int64 // by clients that are gone
}

const dealPeriod = 100 * time.Millisecond

func newDealer(t *task, info []byte) *dealer {
	return &dealer{e: t.e, t: t, info: info, deck: newDeck(t.store.meta), conns: map[*dealtConn]*torrent.Torrent{}}
}

// take serves a connection whose handshake names this torrent, until it ends. It closes the connection when it has no room.
func (d *dealer) take(name string, conn net.Conn) {
	h, ok := d.deck.sit(name, d.e.cfg.Deal, time.Now())
	if !ok {
		conn.Close()
		return
	}
	c := &dealtConn{Conn: conn, done: make(chan struct{})}
	h.evict = func() { c.Close() }
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		conn.Close()
		d.deck.leave(h)
		return
	}
	d.conns[c] = nil
	d.wg.Go(func() { d.serve(h, c) })
}

// serve runs one host's client.
func (d *dealer) serve(h *hand, c *dealtConn) {
	defer d.deck.leave(h)
	defer c.Close()
	cfg := d.e.clientConfig()
	cfg.EstablishedConnsPerTorrent = 1
	cfg.StealRequestGrace = 0
	cfg.Callbacks = torrent.Callbacks{ReadMessage: func(_ *torrent.PeerConn, m *pp.Message) { d.heard(h, m) }}
	client, err := torrent.NewClient(cfg)
	if err != nil {
		d.e.log.Error("swarm: dealing", "peer", h.name, "err", err)
		return
	}
	view := &handStore{store: d.t.store, shown: newBitmap(d.t.store.meta.Pieces)}
	shown := d.deck.deal(h, time.Now())
	if len(shown) == 0 {
		shown = []int{int(h.last.UnixNano() % int64(d.t.store.meta.Pieces))} // a client that has nothing refuses connections
	}
	view.show(shown)
	tor, _ := client.AddTorrentOpt(torrent.AddTorrentOpts{
		InfoHash: d.t.store.hash, InfoBytes: d.info, Storage: view, DisableInitialPieceCheck: true, DisallowDataDownload: true,
	})
	d.mu.Lock()
	d.conns[c] = tor
	d.mu.Unlock()
	ln := &oneListener{conn: make(chan net.Conn, 1), done: make(chan struct{}), addr: d.e.Addr()}
	ln.conn <- c
	client.AddListener(ln)
	d.show(h, c, tor, view)
	st := tor.Stats()
	d.mu.Lock()
	d.sent.Add(st.BytesWrittenData.Int64())
	delete(d.conns, c)
	d.mu.Unlock()
	client.Close()
	close(ln.done)
}

// show deals to one host until its connection ends.
func (d *dealer) show(h *hand, c *dealtConn, tor *torrent.Torrent, view *handStore) {
	ticker := time.NewTicker(dealPeriod)
	defer ticker.Stop()
	for {
		pieces := d.deck.deal(h, time.Now())
		view.show(pieces)
		for _, i := range pieces {
			tor.Piece(i).UpdateCompletion()
		}
		select {
		case <-c.done:
			return
		case <-h.wake:
		case <-ticker.C:
		}
	}
}

// heard reads which pieces a host announces. It runs under the lock of the host's client.
func (d *dealer) heard(h *hand, m *pp.Message) {
	if m.Keepalive {
		return
	}
	now := time.Now()
	switch m.Type {
	case pp.Have:
		d.deck.has(h, int(m.Index), now)
	case pp.HaveAll:
		for i := range d.t.store.meta.Pieces {
			d.deck.has(h, i, now)
		}
	case pp.Bitfield:
		for i, has := range m.Bitfield {
			if has {
				d.deck.has(h, i, now)
			}
		}
	}
}

// stats returns the live connections and the block bytes sent so far.
func (d *dealer) stats() (conns int, sent int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sent = d.sent.Load()
	for _, tor := range d.conns {
		if tor != nil {
			st := tor.Stats()
			sent += st.BytesWrittenData.Int64()
		}
	}
	return len(d.conns), sent
}

// close ends all connections and waits.
func (d *dealer) close() {
	d.mu.Lock()
	d.closed = true
	for c := range d.conns {
		c.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
}

// handStore is a store of which only the pieces shown to one host seem complete.
type handStore struct {
	store *store
	mu    sync.Mutex
	shown bitmap
}

func (s *handStore) show(pieces []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range pieces {
		s.shown.set(i)
	}
}

// OpenTorrent gives the engine its view (storage.ClientImpl).
func (s *handStore) OpenTorrent(context.Context, *metainfo.Info, metainfo.Hash) (storage.TorrentImpl, error) {
	return storage.TorrentImpl{
		Piece: func(p metainfo.Piece) storage.PieceImpl { return shownPiece{piece{s.store, p.Index()}, s} },
		Close: func() error { return nil },
	}, nil
}

type shownPiece struct {
	piece
	view *handStore
}

func (p shownPiece) WriteAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe } // a dealer takes nothing
func (p shownPiece) MarkComplete() error                { return nil }
func (p shownPiece) MarkNotComplete() error             { return nil }

func (p shownPiece) Completion() storage.Completion {
	p.view.mu.Lock()
	defer p.view.mu.Unlock()
	return storage.Completion{Ok: true, Complete: p.view.shown.has(p.i)}
}

// dealtConn tells when the engine closed it.
type dealtConn struct {
	net.Conn
	once sync.Once
	done chan struct{}
}

func (c *dealtConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return c.Conn.Close()
}

// oneListener hands out one connection.
type oneListener struct {
	conn chan net.Conn
	done chan struct{}
	addr net.Addr
}

func (l *oneListener) Addr() net.Addr { return l.addr }

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// peekedConn gives back the bytes that were read to learn which torrent a peer wants.
type peekedConn struct {
	net.Conn
	head []byte
}

func (c *peekedConn) Read(b []byte) (int, error) {
	if len(c.head) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.head)
	c.head = c.head[n:]
	return n, nil
}

// peekHash reads the first bytes of a peer's handshake (BEP 3) and returns the infohash it names.
func peekHash(conn net.Conn) (hash [20]byte, rest net.Conn, err error) {
	var head [infohashEnd]byte
	if err := conn.SetReadDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return hash, nil, err
	}
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return hash, nil, err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return hash, nil, err
	}
	return [20]byte(head[infohashAt:]), &peekedConn{Conn: conn, head: head[:]}, nil
}
