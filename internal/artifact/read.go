package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"

	"github.com/klauspost/compress/zstd"
	"github.com/murmuration/murmuration/release"
)

// Bounds of the index: compressed, and as JSON.
const (
	maxIndexFrame = 64 << 20
	maxIndexText  = 256 << 20
	// maxFrame bounds a frame: zstd adds a few bytes to a chunk that does not compress.
	maxFrame = MaxChunk + 1024
)

// ReadIndex reads the index of the artifact in r, which is described by a. It checks the index against a's
// digest before it decodes it, and everything the index says about itself: see [CheckIndex]. The bytes outside
// the index are not read. A complaint wraps [ErrCorrupt]; a failure to read does not.
func ReadIndex(r io.ReaderAt, a release.Artifact) (release.Index, error) {
	var idx release.Index
	payload, err := readIndexFrame(r, a)
	if err != nil {
		return idx, fmt.Errorf("read index: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxIndexText))
	if err != nil {
		return idx, fmt.Errorf("read index: %w", err)
	}
	defer dec.Close()
	text, err := dec.DecodeAll(payload, nil)
	if err != nil {
		return idx, fmt.Errorf("read index: %w", corrupt("%v", err))
	}
	if err := json.Unmarshal(text, &idx); err != nil {
		return release.Index{}, fmt.Errorf("read index: %w", corrupt("%v", err))
	}
	if err := CheckIndex(a, idx); err != nil {
		return release.Index{}, fmt.Errorf("read index: %w", err)
	}
	return idx, nil
}

// readIndexFrame returns the payload of the skippable frame, its digest checked.
func readIndexFrame(r io.ReaderAt, a release.Artifact) ([]byte, error) {
	if err := a.Validate(); err != nil {
		return nil, corrupt("%v", err)
	}
	if a.IndexSize <= skippableHead || a.IndexSize > maxIndexFrame {
		return nil, corrupt("an index of %d bytes, the limit is %d", a.IndexSize, maxIndexFrame)
	}
	frame := make([]byte, a.IndexSize)
	if n, err := r.ReadAt(frame, a.IndexOffset); n < len(frame) {
		return nil, readError(err, "the file ends inside the index")
	}
	payload := frame[skippableHead:]
	if binary.LittleEndian.Uint32(frame) != skippableMagic || binary.LittleEndian.Uint32(frame[4:]) != uint32(len(payload)) {
		return nil, corrupt("no index where the manifest says")
	}
	if release.DigestOf(payload) != a.IndexDigest {
		return nil, corrupt("the index does not have the digest in the manifest")
	}
	return payload, nil
}

// readError turns the end of a file into ErrCorrupt and leaves other failures to read as they are.
func readError(err error, what string) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return corrupt("%s", what)
	}
	return err
}

// CheckIndex reports whether idx is well formed and agrees with a: paths allowed, sorted, unique, each below a
// folder listed before it; links that stay inside; chunks within their bounds that add up to the tar stream and
// frames that cover the file up to the index without gaps. The error wraps [ErrCorrupt].
func CheckIndex(a release.Artifact, idx release.Index) error {
	if len(idx.Files) != a.Files || len(idx.Chunks) != a.Chunks {
		return corrupt("the index has %d files and %d chunks, the manifest says %d and %d",
			len(idx.Files), len(idx.Chunks), a.Files, a.Chunks)
	}
	dirs := map[string]bool{".": true}
	for i, f := range idx.Files {
		if i > 0 && f.Path <= idx.Files[i-1].Path {
			return corrupt("entry %q is repeated or out of order", f.Path)
		}
		if err := checkFile(f, a.RawSize); err != nil {
			return corrupt("%v", err)
		}
		if parent := path.Dir(f.Path); !dirs[parent] {
			return corrupt("entry %q is not below a folder of the release", f.Path)
		}
		if f.Type == release.Directory {
			dirs[f.Path] = true
		}
	}
	if size := newLayout(idx.Files).size(); size != a.RawSize {
		return corrupt("the files need an archive of %d bytes, the manifest says %d", size, a.RawSize)
	}
	return checkChunks(a, idx.Chunks)
}

func checkFile(f release.File, limit int64) error {
	if err := release.CheckPath(f.Path); err != nil {
		return err
	}
	if f.Mode > 0o777 {
		return fmt.Errorf("%q has mode %#o", f.Path, f.Mode)
	}
	if f.Type != release.Regular && (f.Size != 0 || f.Digest != "") || f.Type != release.Symlink && f.Target != "" {
		return fmt.Errorf("%q has fields its type %q does not have", f.Path, f.Type)
	}
	switch f.Type {
	case release.Directory:
		return nil
	case release.Symlink:
		return release.CheckLink(f.Path, f.Target)
	case release.Regular:
		if f.Size < 0 || f.Size > limit {
			return fmt.Errorf("%q has a size of %d", f.Path, f.Size)
		}
		if _, err := f.Digest.Sum(); err != nil {
			return fmt.Errorf("%q: %w", f.Path, err)
		}
		return nil
	}
	return fmt.Errorf("%q has the type %q", f.Path, f.Type)
}

func checkChunks(a release.Artifact, chunks []release.Chunk) error {
	var raw, frames int64
	for i, c := range chunks {
		if c.RawSize < 1 || c.RawSize > MaxChunk || c.FrameSize < 1 || c.FrameSize > maxFrame {
			return corrupt("chunk %d has sizes %d and %d", i, c.RawSize, c.FrameSize)
		}
		if _, err := c.Raw.Sum(); err != nil {
			return corrupt("chunk %d: %v", i, err)
		}
		raw += c.RawSize
		frames += c.FrameSize
	}
	if raw != a.RawSize || frames != a.IndexOffset {
		return corrupt("chunks hold %d bytes in %d, the manifest says %d in %d", raw, frames, a.RawSize, a.IndexOffset)
	}
	return nil
}

// VerifyFile reads r to its end and compares size and digest of the whole file with a. It is what an upload or
// a copy is checked by; [Unpack] does not need it (see the package's doc). A mismatch wraps [ErrCorrupt].
func VerifyFile(ctx context.Context, r io.Reader, a release.Artifact) error {
	sum := sha256.New()
	n, err := io.Copy(sum, &ctxReader{ctx: ctx, r: io.LimitReader(r, a.Size+1)})
	if err != nil {
		return fmt.Errorf("verify artifact: %w", err)
	}
	if n != a.Size {
		return fmt.Errorf("verify artifact: %w", corrupt("at least %d bytes, the manifest says %d", n, a.Size))
	}
	if got := release.DigestSum([sha256.Size]byte(sum.Sum(nil))); got != a.Digest {
		return fmt.Errorf("verify artifact: %w", corrupt("its digest is %s, the manifest says %s", got, a.Digest))
	}
	return nil
}

// ctxReader is r until ctx ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Verify decodes the whole artifact, writes nothing, and checks every claim of its index: chunk digests, archive
// headers, the digest of each file, and the digest of the tar stream. Idx must come from [ReadIndex]. A seeder
// runs it before it publishes. A complaint wraps [ErrCorrupt].
func Verify(ctx context.Context, r io.ReaderAt, a release.Artifact, idx release.Index) error {
	dec, err := newFrameDecoder(r)
	if err != nil {
		return fmt.Errorf("verify artifact: %w", err)
	}
	defer dec.close()
	check := &digestCheck{files: idx.Files, sum: sha256.New()}
	l, whole := newLayout(idx.Files), sha256.New()
	var frameAt, rawAt int64
	for i, c := range idx.Chunks {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("verify artifact: %w", err)
		}
		raw, err := dec.chunk(i, c, frameAt)
		if err == nil {
			err = l.visit(rawAt, raw, check)
		}
		if err != nil {
			return fmt.Errorf("verify artifact: %w", err)
		}
		whole.Write(raw)
		frameAt, rawAt = frameAt+c.FrameSize, rawAt+c.RawSize
	}
	if release.DigestSum([sha256.Size]byte(whole.Sum(nil))) != a.RawDigest {
		return fmt.Errorf("verify artifact: %w", corrupt("the archive does not have the digest in the manifest"))
	}
	return nil
}

// digestCheck is a visitor that compares the digest of every file; content must come in order.
type digestCheck struct {
	files []release.File
	sum   hash.Hash
}

func (d *digestCheck) entry(i int) error {
	if d.files[i].Type != release.Regular {
		return nil
	}
	return d.compare(i)
}

func (d *digestCheck) content(i int, at int64, part []byte) error {
	d.sum.Write(part)
	if at+int64(len(part)) < d.files[i].Size {
		return nil
	}
	return d.compare(i)
}

func (d *digestCheck) compare(i int) error {
	got := release.DigestSum([sha256.Size]byte(d.sum.Sum(nil)))
	d.sum.Reset()
	if got != d.files[i].Digest {
		return corrupt("%q does not have the digest in the index", d.files[i].Path)
	}
	return nil
}

// frameDecoder reads and decodes single chunks. It is used by one goroutine and owns its buffers.
type frameDecoder struct {
	r     io.ReaderAt
	zstd  *zstd.Decoder
	frame []byte
	raw   []byte
}

func newFrameDecoder(r io.ReaderAt) (*frameDecoder, error) {
	// The limit on capacity makes a frame that would decode to more than its chunk an error before it does.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(MaxChunk), zstd.WithDecoderMaxWindow(MaxChunk))
	if err != nil {
		return nil, err
	}
	return &frameDecoder{r: r, zstd: dec, frame: make([]byte, maxFrame), raw: make([]byte, MaxChunk)}, nil
}

func (d *frameDecoder) close() { d.zstd.Close() }

// chunk returns the content of chunk i, whose frame is at the offset given, after checking size and digest. The
// bytes are valid until the next call.
func (d *frameDecoder) chunk(i int, c release.Chunk, at int64) ([]byte, error) {
	frame := d.frame[:c.FrameSize]
	if n, err := d.r.ReadAt(frame, at); n < len(frame) {
		return nil, fmt.Errorf("chunk %d: %w", i, readError(err, "the file ends inside it"))
	}
	raw, err := d.zstd.DecodeAll(frame, d.raw[:0:c.RawSize])
	if err != nil {
		return nil, fmt.Errorf("chunk %d: %w", i, corrupt("%v", err))
	}
	if int64(len(raw)) != c.RawSize {
		return nil, fmt.Errorf("chunk %d: %w", i, corrupt("%d bytes, the index says %d", len(raw), c.RawSize))
	}
	got := sha256.Sum256(raw)
	if want, err := c.Raw.Sum(); err != nil || !bytes.Equal(got[:], want[:]) {
		return nil, fmt.Errorf("chunk %d: %w", i, corrupt("wrong digest"))
	}
	return raw, nil
}
