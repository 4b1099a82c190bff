package swarm

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"

	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"
	"golang.org/x/sync/errgroup"
)

// Bounds of an info dictionary that this fleet accepts.
const (
	minPieceLength = 16 << 10
	ownPieceLength = 64 << 10 // the smallest we make: small pieces spread soonest
	maxPieceLength = 16 << 20
	maxPieces      = 1 << 17
	wantPieces     = 2048
	maxInfoBytes   = maxPieces*sha1.Size + 64<<10
	maxNameBytes   = 255
)

// PieceLength is the fleet's rule: the smallest power of two from 64 KiB to 4 MiB that makes at most 2048
// pieces of a file of the given length. Small pieces can be shared sooner; too many cost announcements.
func PieceLength(length int64) int64 {
	n := int64(ownPieceLength)
	for n < 4<<20 && (length+n-1)/n > wantPieces {
		n *= 2
	}
	return n
}

// MakeInfo hashes the file at path with all cores and returns its bencoded info dictionary (BEP 3, version 1, private
// as in BEP 27) under the given name, and the infohash in hexadecimal. The same bytes and name give the same result.
// The file must not be empty and must not change meanwhile.
func MakeInfo(ctx context.Context, path, name string) (info []byte, infohash string, err error) {
	if name == "" || len(name) > maxNameBytes || name != filepath.Base(name) || name == "." || name == ".." {
		return nil, "", fmt.Errorf("swarm: make info of %s: name %q must be one path element of at most %d bytes", path, name, maxNameBytes)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, "", fmt.Errorf("swarm: make info: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, "", fmt.Errorf("swarm: make info: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() == 0 {
		return nil, "", fmt.Errorf("swarm: make info of %s: not a regular file with content", path)
	}
	m := newMeta(st.Size(), PieceLength(st.Size()))
	sums := make([]byte, m.Pieces*sha1.Size)
	err = eachPiece(ctx, m, nil, func(i int, buf []byte) error {
		if _, err := f.ReadAt(buf, int64(i)*m.PieceLength); err != nil {
			return fmt.Errorf("swarm: make info of %s: %w", path, unexpectedEOF(err))
		}
		sum := sha1.Sum(buf)
		copy(sums[i*sha1.Size:], sum[:])
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	info = encodeInfo(m, name, sums)
	sum := sha1.Sum(info)
	return info, hex.EncodeToString(sum[:]), nil
}

// encodeInfo writes the dictionary with its keys in order, as BEP 3 demands.
func encodeInfo(m Meta, name string, sums []byte) []byte {
	b := make([]byte, 0, len(sums)+len(name)+128)
	b = append(b, "d6:lengthi"...)
	b = strconv.AppendInt(b, m.Length, 10)
	b = append(b, "e4:name"...)
	b = strconv.AppendInt(b, int64(len(name)), 10)
	b = append(append(b, ':'), name...)
	b = append(b, "12:piece lengthi"...)
	b = strconv.AppendInt(b, m.PieceLength, 10)
	b = append(b, "e6:pieces"...)
	b = strconv.AppendInt(b, int64(len(sums)), 10)
	b = append(append(b, ':'), sums...)
	return append(b, "7:privatei1ee"...)
}

// ParseInfo reads the sizes from a bencoded info dictionary. It accepts single-file version 1 dictionaries within the
// fleet's bounds (pieces of 16 KiB to 16 MiB, a power of two, at most 131072 of them) and returns [ErrBadInfo] for
// everything else. It is safe on hostile input.
func ParseInfo(info []byte) (Meta, error) {
	_, m, err := decodeInfo(info)
	return m, err
}

func decodeInfo(info []byte) (*metainfo.Info, Meta, error) {
	if len(info) > maxInfoBytes {
		return nil, Meta{}, fmt.Errorf("%w: %d bytes, limit %d", ErrBadInfo, len(info), maxInfoBytes)
	}
	var in metainfo.Info
	if err := bencode.Unmarshal(info, &in); err != nil {
		return nil, Meta{}, fmt.Errorf("%w: %w", ErrBadInfo, err)
	}
	if len(in.Files) > 0 || in.MetaVersion > 1 || !in.HasV1() {
		return nil, Meta{}, fmt.Errorf("%w: only single-file version 1 torrents are carried", ErrBadInfo)
	}
	pl := in.PieceLength
	if pl < minPieceLength || pl > maxPieceLength || pl&(pl-1) != 0 {
		return nil, Meta{}, fmt.Errorf("%w: piece length %d is not a power of two from %d to %d", ErrBadInfo, pl, minPieceLength, maxPieceLength)
	}
	if in.Length <= 0 || in.Length > maxPieces*pl {
		return nil, Meta{}, fmt.Errorf("%w: length %d with pieces of %d is out of bounds", ErrBadInfo, in.Length, pl)
	}
	m := newMeta(in.Length, pl)
	if len(in.Pieces) != m.Pieces*sha1.Size {
		return nil, Meta{}, fmt.Errorf("%w: %d bytes of hashes for %d pieces", ErrBadInfo, len(in.Pieces), m.Pieces)
	}
	return &in, m, nil
}

func newMeta(length, pieceLength int64) Meta {
	return Meta{Length: length, PieceLength: pieceLength, Pieces: int((length + pieceLength - 1) / pieceLength)}
}

// size returns the length of piece i; only the last may be shorter than PieceLength.
func (m Meta) size(i int) int64 {
	return min(m.PieceLength, m.Length-int64(i)*m.PieceLength)
}

// eachPiece calls f for every piece that want selects (nil: all) from as many goroutines as there are cores, each with
// a buffer of the piece's size, and stops at the first error or when ctx ends.
func eachPiece(ctx context.Context, m Meta, want func(int) bool, f func(i int, buf []byte) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(runtime.GOMAXPROCS(0), m.Pieces) {
		g.Go(func() error {
			var buf []byte
			for {
				i := int(next.Add(1)) - 1
				if i >= m.Pieces {
					return nil
				}
				if err := context.Cause(ctx); err != nil {
					return err
				}
				if want != nil && !want(i) {
					continue
				}
				if buf == nil {
					buf = make([]byte, min(m.PieceLength, m.Length))
				}
				if err := f(i, buf[:m.size(i)]); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// unexpectedEOF turns the end of a file that should be longer into an error that says so.
func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Matches reports whether the file at path is exactly the one that info describes, by hashing it.
func Matches(ctx context.Context, info []byte, path string) (bool, error) {
	in, m, err := decodeInfo(info)
	if err != nil {
		return false, err
	}
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrStorage, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrStorage, err)
	}
	if st.Size() != m.Length {
		return false, nil
	}
	s := &store{meta: m, sums: in.Pieces, path: path, f: f, bits: newBitmap(m.Pieces)}
	if err := s.verify(ctx, nil); err != nil {
		return false, err
	}
	return s.have == m.Pieces, nil
}
