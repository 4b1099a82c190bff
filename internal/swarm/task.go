package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/anacrolix/torrent"
)

// task is one torrent held by an Engine. Whoever holds its turn may open, drive or stop it.
type task struct {
	e       *Engine
	store   *store
	turn    chan struct{} // one at a time: Fetch, Seed or the end
	changed chan struct{} // a piece was verified or a write failed
	ctx     context.Context
	cancel  context.CancelCauseFunc
	count   counts

	mu     sync.Mutex
	tor    *torrent.Torrent // nil until opened and after stop
	dealer *dealer          // instead of tor, for a torrent that is dealt
	peers  map[string]Peer  // by address
	disk   int64
	last   int64 // bytes by fallback
}

const (
	tickPeriod    = 250 * time.Millisecond
	readdPeriod   = 1500 * time.Millisecond
	flushPeriod   = 5 * time.Second
	maxTaskPeers  = 4096
	maxFallback   = 4 << 20
	fallbackLimit = 30 * time.Second
)

func (t *task) release() { <-t.turn }

func (t *task) wake() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// start opens the file and hands the torrent to the engine, once.
func (t *task) start(ctx context.Context, spec Spec, create bool) error {
	t.addPeers(spec.Peers)
	if t.opened() {
		return nil
	}
	if err := openStore(ctx, t.store, t.e.open, create); err != nil {
		return err
	}
	if err := t.reuse(ctx, spec.Reuse); err != nil {
		return err
	}
	bytes, complete, _ := t.store.progress()
	if !create && t.e.cfg.Deal > 0 {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.dealer, t.disk = newDealer(t, spec.Info), bytes
		return nil
	}
	t.e.watch.add(t)
	tor, _ := t.e.client.AddTorrentOpt(torrent.AddTorrentOpts{
		InfoHash: t.store.hash, InfoBytes: spec.Info, Storage: t.store, DisableInitialPieceCheck: true,
	})
	tor.SetOnWriteChunkError(func(error) { tor.DisallowDataDownload() }) // the store keeps the error for Fetch
	t.mu.Lock()
	t.tor, t.disk = tor, bytes
	t.mu.Unlock()
	if !complete {
		tor.DownloadAll()
	}
	t.offerPeers(time.Now())
	return nil
}

// reuse lets the caller fill in bytes it has elsewhere, and hashes the pieces they cover.
func (t *task) reuse(ctx context.Context, fill func(context.Context, io.WriterAt) ([]Range, error)) error {
	if _, complete, _ := t.store.progress(); complete || fill == nil {
		return nil
	}
	ranges, err := fill(ctx, freeWriter{t.store})
	if cerr := context.Cause(ctx); cerr != nil {
		return cerr
	}
	if errors.Is(err, ErrStorage) {
		return err
	}
	if err != nil { // reuse only saves network; what it did fill still counts
		t.e.log.Warn("swarm: reuse of local data failed", "path", t.store.path, "err", err)
	}
	covered := newBitmap(t.store.meta.Pieces)
	for _, i := range coveredPieces(t.store.meta, ranges) {
		covered.set(i)
	}
	return t.store.verify(ctx, covered.has)
}

// seed is Seed with the turn held.
func (t *task) seed(ctx context.Context, spec Spec) error {
	if err := t.start(ctx, spec, false); err != nil {
		return err
	}
	return t.store.finish()
}

// fetch is Fetch with the turn held.
func (t *task) fetch(ctx context.Context, spec Spec, progress func(Progress)) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(t.ctx, func() { stop(context.Cause(t.ctx)) })()
	if err := t.start(ctx, spec, true); err != nil {
		return err
	}
	if err := t.drive(ctx, spec, progress); err != nil {
		return err
	}
	if err := t.store.finish(); err != nil {
		return err
	}
	progress(t.progress())
	return nil
}

// drive waits until the file is complete, looking after peers, stalls and the record on the way.
func (t *task) drive(ctx context.Context, spec Spec, progress func(Progress)) error {
	ticker := time.NewTicker(tickPeriod)
	defer ticker.Stop()
	now := time.Now()
	readd, flushed, pace := now, now, newPace(now, t.e.patience)
	for {
		bytes, complete, err := t.store.progress()
		if err != nil || complete {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.changed:
			continue
		case now = <-ticker.C:
		}
		progress(t.progress())
		if now.Sub(readd) >= readdPeriod { // the engine forgets an address after one failure
			readd = now
			t.offerPeers(now)
		}
		if now.Sub(flushed) >= flushPeriod {
			flushed = now
			if err := t.store.flush(); err != nil {
				return err
			}
		}
		pace.observe(now, bytes, t.count.useful(), t.store.meta.PieceLength, len(t.torrent().PeerConns()))
		t.unstall(ctx, now, pace, spec)
	}
}

// unstall acts when nothing was verified for too long: first new connections, then the last resort.
func (t *task) unstall(ctx context.Context, now time.Time, p *pace, spec Spec) {
	if p.shouldReconnect(now) {
		conns := t.torrent().PeerConns()
		t.e.log.Warn("swarm: no progress, reconnecting to all peers", "path", spec.Path, "for", now.Sub(p.since).Round(time.Millisecond), "connections", len(conns))
		for _, c := range conns {
			c.Close()
		}
		t.offerPeers(now)
	}
	if spec.Fallback == nil || !p.shouldFallBack(now) {
		return
	}
	n, err := t.fallback(ctx, spec.Fallback)
	p.fellBack(time.Now(), n, err)
	if err != nil {
		t.e.log.Warn("swarm: last-resort fetch failed", "path", spec.Path, "err", err, "again_in", p.backoff)
		return
	}
	t.e.log.Warn("swarm: fetched from the seeder as a last resort", "path", spec.Path, "bytes", n)
}

// fallback fetches one run of missing pieces, at most maxFallback bytes, starting at random so that many stalled hosts
// bring different pieces into the swarm.
func (t *task) fallback(ctx context.Context, get func(context.Context, int64, int64, io.Writer) error) (int64, error) {
	m := t.store.meta
	first, end := t.missingRun()
	off := int64(first) * m.PieceLength
	n := min(int64(end)*m.PieceLength, m.Length) - off
	ctx, cancel := context.WithTimeout(ctx, fallbackLimit)
	defer cancel()
	w := &capped{buf: make([]byte, 0, n), limit: n}
	if err := get(ctx, off, n, w); err != nil {
		return 0, err
	}
	if int64(len(w.buf)) != n {
		return 0, fmt.Errorf("%d bytes at %d: %w after %d", n, off, io.ErrUnexpectedEOF, len(w.buf))
	}
	for i := first; i < end; i++ {
		b := w.buf[int64(i)*m.PieceLength-off:]
		if err := t.store.writePiece(i, b[:m.size(i)]); err != nil {
			return 0, err
		}
		t.torrent().Piece(i).UpdateCompletion()
	}
	t.mu.Lock()
	t.last += n
	t.mu.Unlock()
	return n, nil
}

// missingRun returns a run [first, end) of missing pieces of at most maxFallback bytes. There is at least one.
func (t *task) missingRun() (first, end int) {
	m := t.store.meta
	first = rand.IntN(m.Pieces)
	for range m.Pieces {
		if !t.store.has(first) {
			break
		}
		first = (first + 1) % m.Pieces
	}
	limit := max(1, int(maxFallback/m.PieceLength))
	for end = first + 1; end < m.Pieces && end-first < limit && !t.store.has(end); end++ {
	}
	return first, end
}

// addPeers remembers peers and offers them to the engine.
func (t *task) addPeers(peers []Peer) {
	t.mu.Lock()
	for _, p := range peers {
		if p.Addr == "" || p.Addr == t.e.Addr().String() || (p.Name != "" && p.Name == t.e.cfg.Name) {
			continue
		}
		if _, known := t.peers[p.Addr]; known || len(t.peers) < maxTaskPeers {
			t.peers[p.Addr] = p
		}
	}
	t.mu.Unlock()
	t.offerPeers(time.Now())
}

// offerPeers gives the engine every known address again; it skips those it is connected to.
func (t *task) offerPeers(now time.Time) {
	t.mu.Lock()
	tor := t.tor
	infos := make([]torrent.PeerInfo, 0, len(t.peers))
	for _, p := range t.peers {
		if addr, ok := t.e.names.outbound(p, now); ok {
			infos = append(infos, torrent.PeerInfo{Addr: addr, Source: torrent.PeerSourceDirect})
		}
	}
	t.mu.Unlock()
	if tor != nil && len(infos) > 0 {
		tor.AddPeers(infos)
	}
}

func (t *task) opened() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tor != nil || t.dealer != nil
}

func (t *task) torrent() *torrent.Torrent {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tor
}

func (t *task) progress() Progress {
	bytes, _, _ := t.store.progress()
	t.mu.Lock()
	defer t.mu.Unlock()
	return Progress{
		Done: bytes, Total: t.store.meta.Length, FromDisk: t.disk, Fallback: t.last,
		FromPeers: t.count.peers.Load(), FromSeeder: t.count.seeder.Load(),
	}
}

func (t *task) stats() Stats {
	_, complete, _ := t.store.progress()
	s := Stats{Progress: t.progress(), Complete: complete, Silenced: t.count.silenced.Load()}
	t.mu.Lock()
	tor, dealer := t.tor, t.dealer
	t.mu.Unlock()
	if dealer != nil {
		s.Peers, s.Uploaded = dealer.stats()
	}
	if tor == nil {
		return s
	}
	st := tor.Stats()
	s.Peers = st.ActivePeers
	s.Uploaded, s.Downloaded = st.BytesWrittenData.Int64(), st.BytesReadData.Int64()
	s.Wasted = st.ChunksReadWasted.Int64()
	return s
}

// end makes whoever drives the task give up with cause, waits for that, and stops the torrent.
func (t *task) end(cause error, flush bool) error {
	t.cancel(cause)
	t.turn <- struct{}{}
	defer t.release()
	return t.stop(flush)
}

// stop takes the torrent from the engine and closes the file, with the turn held. The task is of no use after it.
func (t *task) stop(flush bool) error {
	t.cancel(ErrDropped)
	t.mu.Lock()
	tor, dealer := t.tor, t.dealer
	t.tor, t.dealer = nil, nil
	t.mu.Unlock()
	if dealer != nil {
		dealer.close()
	}
	if tor != nil {
		tor.Drop()
		t.e.watch.remove(t)
	}
	if t.store.f == nil {
		return nil
	}
	var err error
	if flush {
		err = t.store.flush()
	}
	return errors.Join(err, t.store.close())
}

// coveredPieces lists the pieces that lie wholly inside the union of the ranges.
func coveredPieces(m Meta, ranges []Range) []int {
	filled := make([]int64, m.Pieces)
	for _, r := range mergeRanges(m.Length, ranges) {
		end := r.Off + r.Len
		for i := r.Off / m.PieceLength; i < int64(m.Pieces) && i*m.PieceLength < end; i++ {
			start := i * m.PieceLength
			filled[i] += min(end, start+m.size(int(i))) - max(r.Off, start)
		}
	}
	var out []int
	for i, n := range filled {
		if n == m.size(i) {
			out = append(out, i)
		}
	}
	return out
}
