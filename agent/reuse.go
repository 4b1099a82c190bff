package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"syscall"

	"github.com/murmuration/murmuration/internal/artifact"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/release"
)

// allocated is how much of the disk a file takes; a torrent's part file is sparse.
func allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

// fallback fetches ranges of an artifact from the seeders the order names, one after the other; nil if it names
// none.
func (a *Agent) fallback(ref *murmurv1.ReleaseRef) func(context.Context, int64, int64, io.Writer) error {
	urls := ref.GetFallbackUrls()
	if len(urls) == 0 || a.cfg.Client == nil {
		return nil
	}
	return func(ctx context.Context, off, n int64, w io.Writer) error {
		var err error
		for i := range urls {
			// A host starts at its own place in the list, so that one seeder does not serve all.
			if err = a.fetchRange(ctx, urls[(int(spread(a.cfg.HostID, 1)%1024)+i)%len(urls)], off, n, w); err == nil {
				return nil
			}
		}
		return err
	}
}

// fetchRange writes exactly n bytes from off of the file at url, or nothing: w may not see two halves of two tries.
func (a *Agent) fetchRange(ctx context.Context, url string, off, n int64, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("fetch a range: %w", err)
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	resp, err := a.cfg.Client.Do(req)
	if err != nil {
		return fmt.Errorf("fetch a range: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		return fmt.Errorf("fetch a range of %s: %s, want 206", url, resp.Status)
	}
	buf := new(bytes.Buffer)
	if _, err := io.Copy(buf, io.LimitReader(resp.Body, n+1)); err != nil {
		return fmt.Errorf("fetch a range of %s: %w", url, err)
	}
	if int64(buf.Len()) != n {
		return fmt.Errorf("fetch a range of %s: got %d bytes, want %d", url, buf.Len(), n)
	}
	_, err = w.Write(buf.Bytes())
	return err
}

// maxIndex bounds the index that is fetched ahead of its artifact.
const maxIndex = 32 << 20

// window is the part of a file from off on.
type window struct {
	off int64
	b   []byte
}

// ReadAt implements io.ReaderAt inside the window.
func (w window) ReadAt(p []byte, off int64) (int, error) {
	if off < w.off || off > w.off+int64(len(w.b)) {
		return 0, fmt.Errorf("read at %d: only %d to %d are here: %w", off, w.off, w.off+int64(len(w.b)), io.ErrUnexpectedEOF)
	}
	n := copy(p, w.b[off-w.off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// reuse fills in what older artifacts of the service have in common with the new one. It needs the new index
// first, a few KiB of the file's end, which it fetches from a seeder; without that there is no reuse and the
// swarm brings everything.
func (a *Agent) reuse(u *unit, m release.Manifest, ref *murmurv1.ReleaseRef) func(context.Context, io.WriterAt) ([]Range, error) {
	fetch := a.fallback(ref)
	older := u.ready()
	if fetch == nil || len(older) == 0 || m.Artifact.IndexSize > maxIndex {
		return nil
	}
	return func(ctx context.Context, w io.WriterAt) ([]Range, error) {
		var tail bytes.Buffer
		if err := fetch(ctx, m.Artifact.IndexOffset, m.Artifact.IndexSize, &tail); err != nil {
			return nil, fmt.Errorf("fetch the index: %w", err)
		}
		idx, err := artifact.ReadIndex(window{m.Artifact.IndexOffset, tail.Bytes()}, m.Artifact)
		if err != nil {
			return nil, err
		}
		if _, err := w.WriteAt(tail.Bytes(), m.Artifact.IndexOffset); err != nil {
			return nil, err
		}
		filled := []Range{{Off: m.Artifact.IndexOffset, Len: m.Artifact.IndexSize}}
		for i := len(older) - 1; i >= 0; i-- { // the newest has most in common
			more, err := a.copyCommon(ctx, u, idx, older[i], w)
			if err != nil {
				u.log.Warn("reuse of an older release", "release", older[i], "err", err)
			}
			filled = append(filled, more...)
		}
		return filled, nil
	}
}

func (a *Agent) copyCommon(ctx context.Context, u *unit, idx release.Index, old string, w io.WriterAt) ([]Range, error) {
	_, m, err := u.dir.Load(old)
	if err != nil {
		return nil, err
	}
	f, err := a.root.Open(artifactPath(old))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	oldIdx, err := artifact.ReadIndex(f, m.Artifact)
	if err != nil {
		return nil, err
	}
	var filled []Range
	for _, s := range artifact.ReuseFrames(idx, oldIdx) {
		if ctx.Err() != nil {
			return filled, context.Cause(ctx)
		}
		if _, err := io.Copy(io.NewOffsetWriter(w, s.New), io.NewSectionReader(f, s.Old, s.Size)); err != nil {
			return filled, err
		}
		filled = append(filled, Range{Off: s.New, Len: s.Size})
	}
	return filled, nil
}
