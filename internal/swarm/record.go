package swarm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/murmuration/murmuration/internal/durable"
)

// record is what is known about one torrent across restarts: which pieces of which file were verified and synced.
//
// On disk (version 1, file <Dir>/<infohash>.pieces): "MURPIECE", version byte, complete byte, modification time of a
// complete file (8 bytes, ns), length (8), number of pieces (4), length of the path (4), path, bitmap, CRC-32C of
// everything before (4); integers big-endian. A record that does not parse is as good as none: the file is hashed.
type record struct {
	complete bool
	modTime  int64
	meta     Meta
	path     string
	bits     bitmap
}

const (
	recordMagic   = "MURPIECE"
	recordVersion = 1
	recordHead    = len(recordMagic) + 2 + 8 + 8 + 4 + 4
	maxRecord     = recordHead + 1<<16 + maxPieces/8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errBadRecord = errors.New("damaged piece record")

func (r record) encode() []byte {
	b := append(make([]byte, 0, recordHead+len(r.path)+len(r.bits)+4), recordMagic...)
	b = append(b, recordVersion, 0)
	if r.complete {
		b[len(b)-1] = 1
	}
	b = binary.BigEndian.AppendUint64(b, uint64(r.modTime))
	b = binary.BigEndian.AppendUint64(b, uint64(r.meta.Length))
	b = binary.BigEndian.AppendUint32(b, uint32(r.meta.Pieces))
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.path)))
	b = append(append(b, r.path...), r.bits...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeRecord reads a record of the torrent described by m.
func decodeRecord(b []byte, m Meta) (record, error) {
	if len(b) < recordHead+4 || len(b) > maxRecord || !bytes.HasPrefix(b, []byte(recordMagic)) || b[8] != recordVersion {
		return record{}, errBadRecord
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return record{}, errBadRecord
	}
	r := record{complete: body[9] == 1, modTime: int64(binary.BigEndian.Uint64(body[10:])), meta: m}
	length, pieces := binary.BigEndian.Uint64(body[18:]), binary.BigEndian.Uint32(body[26:])
	pathLen := int64(binary.BigEndian.Uint32(body[30:]))
	rest := body[recordHead:]
	if int64(length) != m.Length || int64(pieces) != int64(m.Pieces) || pathLen > int64(len(rest)) {
		return record{}, errBadRecord
	}
	r.path, r.bits = string(rest[:pathLen]), bitmap(rest[pathLen:])
	if len(r.bits) != len(newBitmap(m.Pieces)) {
		return record{}, errBadRecord
	}
	return r, nil
}

// records is the folder of records.
type records struct{ root *os.Root }

func openRecords(dir string) (records, error) {
	if dir == "" {
		return records{}, errors.New("swarm: Config.Dir is empty; name a folder for the piece records")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return records{}, fmt.Errorf("swarm: piece records: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return records{}, fmt.Errorf("swarm: piece records: %w", err)
	}
	return records{root}, nil
}

func recordName(hash [20]byte) string { return hex.EncodeToString(hash[:]) + ".pieces" }

// load returns the record of a torrent, and false when there is none to believe.
func (rs records) load(hash [20]byte, m Meta) (record, bool) {
	f, err := rs.root.Open(recordName(hash))
	if err != nil {
		return record{}, false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(maxRecord)+1))
	if err != nil {
		return record{}, false
	}
	r, err := decodeRecord(b, m)
	return r, err == nil
}

// save replaces the record of a torrent atomically.
func (rs records) save(hash [20]byte, r record) error {
	if err := durable.WriteFile(rs.root, recordName(hash), r.encode(), 0o600); err != nil {
		return fmt.Errorf("swarm: piece record: %w", err)
	}
	return nil
}

// remove deletes the record of a torrent; one that is not there is no error.
func (rs records) remove(hash [20]byte) error {
	return durable.Remove(rs.root, recordName(hash))
}

func (rs records) close() error { return rs.root.Close() }

// bitmap has one bit per piece.
type bitmap []byte

func newBitmap(n int) bitmap    { return make(bitmap, (n+7)/8) }
func (b bitmap) has(i int) bool { return b[i/8]&(1<<(i%8)) != 0 }
func (b bitmap) set(i int)      { b[i/8] |= 1 << (i % 8) }
func (b bitmap) clear(i int)    { b[i/8] &^= 1 << (i % 8) }
