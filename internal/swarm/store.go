package swarm

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/storage"
	"github.com/murmuration/murmuration/internal/durable"
)

// file is what a store needs of *os.File; tests put faults in.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(int64) error
	Stat() (fs.FileInfo, error)
}

// openFunc opens the file at path, creating it when create is set.
type openFunc func(path string, create bool) (file, error)

func osOpen(path string, create bool) (file, error) {
	if !create {
		return os.Open(path)
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
}

// store is the data of one torrent: one file, its pieces, and which of them are verified. A verified piece is sealed:
// later writes to it are ignored, so a block that arrives late can never damage it. Safe for concurrent use.
type store struct {
	hash  [20]byte
	meta  Meta
	sums  []byte // 20 bytes per piece
	path  string
	recs  records
	stale func() // called after each change of the verified set; must not block

	stripes [64]sync.RWMutex // by piece: a write against its sealing

	mu       sync.Mutex
	f        file
	bits     bitmap
	have     int   // number of bits set
	bytes    int64 // bytes of the pieces set
	final    bool  // f is path, not the part file
	dirty    bool  // bits differ from the record
	closed   bool
	writeErr error // first failed write; ends the Fetch
}

const partSuffix = ".part"

// openStore opens the final file or the part file of a torrent and finds out which pieces it holds: from the record where
// that is trustworthy, else by hashing. With create it makes the part file; without, a missing file is an error.
func openStore(ctx context.Context, s *store, open openFunc, create bool) error {
	s.bits = newBitmap(s.meta.Pieces)
	rec, ok := s.recs.load(s.hash, s.meta)
	ok = ok && rec.path == s.path
	done, err := s.openFinal(ctx, open, rec, ok)
	if done || err != nil && (!create || !errors.Is(err, ErrCorrupt) && !errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	return s.openPart(ctx, open, rec, ok && !rec.complete)
}

// openFinal takes the file at the final path when it has the right size, trusting a record of the unchanged complete file.
// A file that is not the torrent's is left alone: ErrCorrupt.
func (s *store) openFinal(ctx context.Context, open openFunc, rec record, ok bool) (done bool, err error) {
	f, err := open(s.path, false)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrStorage, err)
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() != s.meta.Length {
		f.Close()
		return false, fmt.Errorf("%w: %s is not a file of %d bytes", ErrCorrupt, s.path, s.meta.Length)
	}
	s.f, s.final = f, true
	if ok && rec.complete && rec.modTime == st.ModTime().UnixNano() {
		s.adopt(rec.bits)
	} else if err := s.verify(ctx, nil); err != nil {
		f.Close()
		return false, err
	}
	if s.have == s.meta.Pieces {
		s.dirty = !ok || !rec.complete
		return true, nil
	}
	f.Close()
	err = fmt.Errorf("%w: %s: %d of %d pieces are right", ErrCorrupt, s.path, s.have, s.meta.Pieces)
	s.f, s.final, s.bits, s.have, s.bytes = nil, false, newBitmap(s.meta.Pieces), 0, 0
	return false, err
}

func (s *store) openPart(ctx context.Context, open openFunc, rec record, ok bool) error {
	f, err := open(s.path+partSuffix, true)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStorage, err)
	}
	st, err := f.Stat()
	if err == nil && st.Size() != s.meta.Length {
		err = f.Truncate(s.meta.Length)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("%w: %w", ErrStorage, err)
	}
	s.f = f
	switch {
	case st.Size() == 0:
		return nil // just made
	case ok && st.Size() == s.meta.Length:
		s.adopt(rec.bits)
	}
	if err := s.verify(ctx, nil); err != nil {
		f.Close()
		return err
	}
	return nil
}

// adopt believes a record.
func (s *store) adopt(bits bitmap) {
	for i := range s.meta.Pieces {
		if bits.has(i) {
			s.seal(i)
		}
	}
	s.dirty = false
}

// verify hashes the pieces that are not yet known to be good and that want selects (nil: all).
func (s *store) verify(ctx context.Context, want func(int) bool) error {
	pick := func(i int) bool { return !s.has(i) && (want == nil || want(i)) }
	return eachPiece(ctx, s.meta, pick, func(i int, buf []byte) error {
		if _, err := s.f.ReadAt(buf, int64(i)*s.meta.PieceLength); err != nil {
			return fmt.Errorf("%w: read %s: %w", ErrStorage, s.path, unexpectedEOF(err))
		}
		if s.matches(i, buf) {
			s.seal(i)
		}
		return nil
	})
}

func (s *store) matches(i int, b []byte) bool {
	return sha1.Sum(b) == [sha1.Size]byte(s.sums[i*sha1.Size:])
}

func (s *store) has(i int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bits.has(i)
}

// seal marks piece i verified.
func (s *store) seal(i int) {
	s.mu.Lock()
	if !s.bits.has(i) {
		s.bits.set(i)
		s.have++
		s.bytes += s.meta.size(i)
		s.dirty = true
	}
	s.mu.Unlock()
	if s.stale != nil {
		s.stale()
	}
}

func (s *store) unseal(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bits.has(i) {
		s.bits.clear(i)
		s.have--
		s.bytes -= s.meta.size(i)
		s.dirty = true
	}
}

// progress returns the verified bytes, whether that is all, and the first write error.
func (s *store) progress() (bytes int64, complete bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes, s.have == s.meta.Pieces, s.writeErr
}

// writePiece stores a whole piece that came by another way than the engine, if it matches its hash.
func (s *store) writePiece(i int, b []byte) error {
	if !s.matches(i, b) {
		return fmt.Errorf("%w: piece %d", ErrCorrupt, i)
	}
	lock := &s.stripes[i%len(s.stripes)]
	lock.Lock()
	defer lock.Unlock()
	if s.has(i) {
		return nil
	}
	if _, err := s.f.WriteAt(b, int64(i)*s.meta.PieceLength); err != nil {
		return s.failed(err)
	}
	s.seal(i)
	return nil
}

// failed keeps the first write error and returns it for Fetch.
func (s *store) failed(err error) error {
	s.mu.Lock()
	if s.writeErr == nil {
		s.writeErr = fmt.Errorf("%w: write %s: %w", ErrStorage, s.path+partSuffix, err)
	}
	err = s.writeErr
	s.mu.Unlock()
	if s.stale != nil {
		s.stale()
	}
	return err
}

// flush syncs the data and then records which pieces are verified. It does nothing when nothing changed.
func (s *store) flush() error {
	s.mu.Lock()
	if !s.dirty || s.closed {
		s.mu.Unlock()
		return nil
	}
	s.dirty = false
	rec := record{complete: s.final, meta: s.meta, path: s.path, bits: append(bitmap(nil), s.bits...)}
	s.mu.Unlock()
	err := s.persist(rec)
	if err != nil {
		s.mu.Lock()
		s.dirty = true
		s.mu.Unlock()
	}
	return err
}

func (s *store) persist(rec record) error {
	if !rec.complete {
		if err := s.f.Sync(); err != nil {
			return fmt.Errorf("%w: sync %s: %w", ErrStorage, s.path, err)
		}
	} else {
		st, err := s.f.Stat()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrStorage, err)
		}
		rec.modTime = st.ModTime().UnixNano()
	}
	if err := s.recs.save(s.hash, rec); err != nil {
		return fmt.Errorf("%w: %w", ErrStorage, err)
	}
	return nil
}

// finish makes a complete part file the final file: synced, renamed, recorded. It may be called again.
func (s *store) finish() error {
	s.mu.Lock()
	final := s.final
	s.mu.Unlock()
	if !final {
		if err := s.f.Sync(); err != nil {
			return fmt.Errorf("%w: sync %s: %w", ErrStorage, s.path, err)
		}
		if err := moveInto(s.path); err != nil {
			return fmt.Errorf("%w: %w", ErrStorage, err)
		}
		s.mu.Lock()
		s.final, s.dirty = true, true
		s.mu.Unlock()
	}
	return s.flush()
}

// moveInto renames the part file of path to path and syncs the folder.
func moveInto(path string) error {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer root.Close()
	name := filepath.Base(path)
	return durable.Rename(root, name+partSuffix, name)
}

// close closes the file; flush is the caller's.
func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.f.Close()
}

// noStorage is the storage of a torrent that brought none, which is never.
type noStorage struct{}

// OpenTorrent refuses (storage.ClientImpl).
func (noStorage) OpenTorrent(context.Context, *metainfo.Info, metainfo.Hash) (storage.TorrentImpl, error) {
	return storage.TorrentImpl{}, errors.New("swarm: a torrent without a store")
}

// OpenTorrent gives the engine its view of the store (storage.ClientImpl).
func (s *store) OpenTorrent(context.Context, *metainfo.Info, metainfo.Hash) (storage.TorrentImpl, error) {
	return storage.TorrentImpl{
		Piece: func(p metainfo.Piece) storage.PieceImpl { return piece{s, p.Index()} },
		Close: func() error { return nil }, // the task closes the store
	}, nil
}

// piece is the engine's view of one piece.
type piece struct {
	s *store
	i int
}

func (p piece) ReadAt(b []byte, off int64) (int, error) {
	return p.s.f.ReadAt(b, int64(p.i)*p.s.meta.PieceLength+off)
}

func (p piece) WriteAt(b []byte, off int64) (int, error) {
	lock := &p.s.stripes[p.i%len(p.s.stripes)]
	lock.RLock()
	defer lock.RUnlock()
	if p.s.has(p.i) {
		return len(b), nil
	}
	n, err := p.s.f.WriteAt(b, int64(p.i)*p.s.meta.PieceLength+off)
	if err != nil {
		return n, p.s.failed(err)
	}
	return n, nil
}

func (p piece) MarkComplete() error    { p.s.seal(p.i); return nil }
func (p piece) MarkNotComplete() error { p.s.unseal(p.i); return nil }

func (p piece) Completion() storage.Completion {
	return storage.Completion{Ok: true, Complete: p.s.has(p.i)}
}
