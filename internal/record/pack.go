package record

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// packAbove is the size from which values are compressed. Smaller ones stay readable with any etcd tool.
const packAbove = 4 << 10

// zstdMagic starts every zstd frame (RFC 8878, section 3.1.1).
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// Packer compresses values on their way into a store and expands them on their way out. A packed value is
// either the value itself or one zstd frame; the frame's magic number tells them apart, so a value that
// happens to start with it is always compressed. A Packer is safe for concurrent use.
type Packer struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewPacker makes a Packer that never expands a value beyond [MaxRaw].
func NewPacker() (*Packer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, fmt.Errorf("make value packer: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(MaxRaw))
	if err != nil {
		return nil, fmt.Errorf("make value packer: %w", err)
	}
	return &Packer{enc: enc, dec: dec}, nil
}

// Pack returns what to store for value. The result may share memory with value. A nil value stays nil.
func (p *Packer) Pack(value []byte) ([]byte, error) {
	if len(value) > MaxRaw {
		return nil, fmt.Errorf("value of %d bytes: at most %d are allowed", len(value), MaxRaw)
	}
	looksPacked := bytes.HasPrefix(value, zstdMagic)
	if len(value) <= packAbove && !looksPacked {
		return value, nil
	}
	packed := p.enc.EncodeAll(value, make([]byte, 0, len(value)/4+64))
	if len(packed) >= len(value) && !looksPacked {
		return value, nil
	}
	return packed, nil
}

// PackOps returns ops with their values packed and checked by [CheckOps]; ops itself is not changed.
func (p *Packer) PackOps(ops []Op) ([]Op, error) {
	packed := make([]Op, len(ops))
	for i, op := range ops {
		value, err := p.Pack(op.Value)
		if err != nil {
			return nil, fmt.Errorf("commit of %s: %w", op.Key, err)
		}
		packed[i] = op
		packed[i].Value = value
	}
	return packed, CheckOps(packed)
}

// Unpack returns the value that was packed, at most [MaxRaw] bytes. The result may share memory with packed.
func (p *Packer) Unpack(packed []byte) ([]byte, error) {
	if !bytes.HasPrefix(packed, zstdMagic) {
		return packed, nil
	}
	value, err := p.dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("unpack stored value of %d bytes: %w", len(packed), err)
	}
	return value, nil
}

// Close frees what the Packer holds. It must not be used afterwards.
func (p *Packer) Close() { p.dec.Close() }
