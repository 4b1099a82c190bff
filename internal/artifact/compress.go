package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/murmuration/murmuration/release"
)

const (
	skippableMagic = 0x184D2A50
	skippableHead  = 8
)

// compressor is an io.Writer for the tar stream: it cuts chunks, compresses several at once and writes the
// frames in order. One goroutine writes to it; close waits for all frames.
type compressor struct {
	ctx    context.Context
	cancel context.CancelCauseFunc // ends ctx when a frame cannot be made or written
	w      io.Writer
	// whole and raw are the digests of the artifact file and of the tar stream.
	whole, raw hash.Hash
	written    int64
	rawSize    int64
	chunks     []release.Chunk

	pending []byte
	jobs    chan *job
	order   chan *job
	group   sync.WaitGroup
	failed  error // set by the sink before done is closed
	done    chan struct{}
}

// job is one chunk on its way to be a frame. Ready is closed when frame and digest are set.
type job struct {
	raw, frame []byte
	digest     release.Digest
	err        error
	ready      chan struct{}
}

func newCompressor(ctx context.Context, w io.Writer, workers int) *compressor {
	ctx, cancel := context.WithCancelCause(ctx)
	c := &compressor{
		ctx: ctx, cancel: cancel, w: w, whole: sha256.New(), raw: sha256.New(),
		pending: make([]byte, 0, 2*MaxChunk),
		jobs:    make(chan *job), order: make(chan *job, 2*workers),
		done: make(chan struct{}),
	}
	for range workers {
		c.group.Go(c.work)
	}
	go c.sink()
	return c
}

func newEncoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(MaxChunk),
		zstd.WithEncoderCRC(false)) // every chunk has a SHA-256
}

func (c *compressor) work() {
	enc, err := newEncoder()
	for j := range c.jobs {
		if j.err = err; err == nil {
			j.frame = enc.EncodeAll(j.raw, make([]byte, 0, len(j.raw)/2))
			j.digest = release.DigestOf(j.raw)
		}
		close(j.ready)
	}
}

// sink writes frames in the order of their chunks. After an error it only drains.
func (c *compressor) sink() {
	defer close(c.done)
	for j := range c.order {
		<-j.ready
		if c.failed == nil && j.err != nil {
			c.failed = j.err
			c.cancel(j.err)
		}
		if c.failed != nil {
			continue
		}
		c.chunks = append(c.chunks, release.Chunk{Raw: j.digest, RawSize: int64(len(j.raw)), FrameSize: int64(len(j.frame))})
		if c.failed = c.emit(j.frame); c.failed != nil {
			c.cancel(c.failed)
		}
	}
}

func (c *compressor) emit(b []byte) error {
	c.whole.Write(b)
	c.written += int64(len(b))
	_, err := c.w.Write(b)
	return err
}

// Write takes the next bytes of the tar stream.
func (c *compressor) Write(p []byte) (int, error) {
	n := len(p)
	c.raw.Write(p)
	c.rawSize += int64(n)
	for len(p) > 0 {
		m := min(len(p), cap(c.pending)-len(c.pending))
		c.pending = append(c.pending, p[:m]...)
		p = p[m:]
		for len(c.pending) >= MaxChunk {
			if err := c.send(cut(c.pending)); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// send hands over the first n pending bytes as a chunk.
func (c *compressor) send(n int) error {
	j := &job{raw: append([]byte(nil), c.pending[:n]...), ready: make(chan struct{})}
	c.pending = c.pending[:copy(c.pending, c.pending[n:])]
	select {
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	case c.jobs <- j:
		c.order <- j // the sink always drains
		return nil
	}
}

// close sends what is left and waits until every frame is written.
func (c *compressor) close() error {
	var err error
	for len(c.pending) > 0 && err == nil {
		err = c.send(cut(c.pending))
	}
	close(c.jobs)
	close(c.order)
	c.group.Wait()
	<-c.done
	c.cancel(nil)
	if c.failed != nil {
		return c.failed
	}
	return err
}

// finish writes the index and returns what the manifest says of the file.
func (c *compressor) finish(idx release.Index) (release.Artifact, error) {
	text, err := json.Marshal(idx)
	if err != nil {
		return release.Artifact{}, fmt.Errorf("encode index: %w", err)
	}
	enc, err := newEncoder()
	if err != nil {
		return release.Artifact{}, err
	}
	if len(text) > maxIndexText {
		return release.Artifact{}, fmt.Errorf("%w: the index has %d bytes, the limit is %d", ErrTooLarge, len(text), maxIndexText)
	}
	frame := make([]byte, skippableHead, len(text)/2)
	frame = enc.EncodeAll(text, frame)
	payload := frame[skippableHead:]
	if len(frame) > maxIndexFrame {
		return release.Artifact{}, fmt.Errorf("%w: the index takes %d bytes, the limit is %d", ErrTooLarge, len(frame), maxIndexFrame)
	}
	binary.LittleEndian.PutUint32(frame[0:], skippableMagic)
	binary.LittleEndian.PutUint32(frame[4:], uint32(len(payload)))
	a := release.Artifact{
		RawSize: c.rawSize, RawDigest: release.DigestSum([sha256.Size]byte(c.raw.Sum(nil))),
		Files: len(idx.Files), Chunks: len(idx.Chunks),
		IndexOffset: c.written, IndexSize: int64(len(frame)), IndexDigest: release.DigestOf(payload),
	}
	if err := c.emit(frame); err != nil {
		return release.Artifact{}, err
	}
	a.Size, a.Digest = c.written, release.DigestSum([sha256.Size]byte(c.whole.Sum(nil)))
	return a, nil
}
