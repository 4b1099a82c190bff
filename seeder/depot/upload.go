package depot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/durable"
	"github.com/murmuration/murmuration/internal/wire"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/release"
)

// maxUploads bounds how many uploads may be open at once, declared and not complete.
const maxUploads = 64

// The errors of an upload.
var (
	// ErrNoSpace says that an upload would fill the disk.
	ErrNoSpace = errors.New("not enough disk space")
	// errBusy says that another request is writing the same upload.
	errBusy = errors.New("another request is sending this artifact")
	// errOffset says that the bytes sent do not go on where the upload stands.
	errOffset = errors.New("the upload stands at another offset")
	// errTooMuch says that more bytes came than were declared.
	errTooMuch = errors.New("more bytes than declared")
	// errDigest says that what was uploaded is not what was declared; it was thrown away.
	errDigest = errors.New("the bytes do not have the declared digest: send the artifact again from offset 0")
)

// upload is one artifact on its way in.
type upload struct {
	digest release.Digest
	size   int64
	// writing is held by the request that writes; a second one is turned away rather than made to wait.
	writing sync.Mutex
	seen    time.Time // guarded by Depot.mu
}

func (u *upload) name() string { return uploadDir + "/" + u.digest.Hex() + ".part" }

// BeginUpload implements the API.
func (d *Depot) BeginUpload(_ context.Context, req *connect.Request[murmurv1.BeginUploadRequest]) (*connect.Response[murmurv1.BeginUploadResponse], error) {
	digest, err := release.ParseDigest(req.Msg.Digest)
	if err != nil {
		return nil, wire.Invalid("begin upload: %w", err)
	}
	if size := req.Msg.Size; size < 1 || size > release.MaxArtifact {
		return nil, wire.Invalid("begin upload: size %d is outside 1..%d", size, int64(release.MaxArtifact))
	}
	if d.Has(digest) {
		return connect.NewResponse(&murmurv1.BeginUploadResponse{Offset: req.Msg.Size, Complete: true}), nil
	}
	u, err := d.declare(digest, req.Msg.Size)
	if err != nil {
		return nil, err
	}
	offset, err := d.received(u)
	if err != nil {
		return nil, err
	}
	if err := d.room(u.size - offset); err != nil {
		return nil, wire.Limited("begin upload: %w", err)
	}
	return connect.NewResponse(&murmurv1.BeginUploadResponse{Offset: offset}), nil
}

// declare registers an upload, or finds the one that is open.
func (d *Depot) declare(digest release.Digest, size int64) (*upload, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	u := d.uploads[digest]
	switch {
	case u == nil && len(d.uploads) >= maxUploads:
		return nil, wire.Limited("begin upload: %d uploads are open, the most allowed: try again when some are done", maxUploads)
	case u == nil:
		u = &upload{digest: digest, size: size}
		d.uploads[digest] = u
	case u.size != size:
		return nil, wire.Invalid("begin upload: size %d, but an open upload of this digest says %d", size, u.size)
	}
	u.seen = time.Now()
	return u, nil
}

// find returns a declared upload.
func (d *Depot) find(digest release.Digest) (*upload, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	u, ok := d.uploads[digest]
	if ok {
		u.seen = time.Now()
	}
	return u, ok
}

func (d *Depot) forget(u *upload) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.uploads[u.digest] == u {
		delete(d.uploads, u.digest)
	}
}

// received returns how much of an upload is on disk. A part longer than what was declared is of no use.
func (d *Depot) received(u *upload) (int64, error) {
	info, err := d.root.Lstat(u.name())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("upload %s: %w", u.digest, err)
	}
	if info.Size() > u.size {
		if !u.writing.TryLock() {
			return 0, wire.Unavailable("upload %s: %w", u.digest, errBusy)
		}
		defer u.writing.Unlock()
		return 0, durable.Remove(d.root, u.name())
	}
	return info.Size(), nil
}

// room reports whether need more bytes fit and leave the disk its reserve.
func (d *Depot) room(need int64) error {
	free, _, err := durable.FreeSpace(d.cfg.Dir)
	if err != nil {
		return err
	}
	if free-need < d.cfg.MinFree {
		return fmt.Errorf("%w: %d bytes more are needed and %d kept free, but %s has %d: remove releases or add disk",
			ErrNoSpace, need, d.cfg.MinFree, d.cfg.Dir, free)
	}
	return nil
}

// receive writes content at offset, which must be where the upload stands. It returns where the upload stands
// afterwards and whether it is complete; what came before an error stays and is gone on with.
func (d *Depot) receive(u *upload, offset int64, content io.Reader) (at int64, complete bool, err error) {
	if !u.writing.TryLock() {
		return 0, false, errBusy
	}
	defer u.writing.Unlock()
	if d.Has(u.digest) {
		return u.size, true, nil
	}
	f, err := d.root.OpenFile(u.name(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	at, err = f.Seek(0, io.SeekEnd)
	if err != nil || at != offset {
		return at, false, errors.Join(err, errOffset)
	}
	if err := d.room(u.size - at); err != nil {
		return at, false, err
	}
	n, copyErr := io.Copy(f, io.LimitReader(content, u.size-at))
	at += n
	if copyErr == nil && at == u.size {
		copyErr = expectEnd(content)
	}
	if errors.Is(copyErr, syscall.ENOSPC) {
		copyErr = fmt.Errorf("%w: %w", ErrNoSpace, copyErr)
	}
	if err := errors.Join(copyErr, f.Sync()); err != nil || at < u.size {
		return at, false, err
	}
	return d.complete(u, f)
}

// expectEnd is an error unless r is at its end.
func expectEnd(r io.Reader) error {
	var one [1]byte
	n, err := io.ReadFull(r, one[:])
	if n > 0 {
		return errTooMuch
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// complete checks a whole part and makes it an artifact. The digest is taken from what is on disk, all of it.
func (d *Depot) complete(u *upload, f *os.File) (int64, bool, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return u.size, false, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return u.size, false, err
	}
	if got := release.DigestSum([sha256.Size]byte(sum.Sum(nil))); got != u.digest {
		return 0, false, errors.Join(fmt.Errorf("%w (got %s)", errDigest, got), durable.Remove(d.root, u.name()))
	}
	if err := f.Chmod(0o400); err != nil {
		return u.size, false, err
	}
	if err := durable.Rename(d.root, u.name(), artifactName(u.digest)); err != nil {
		return u.size, false, err
	}
	d.forget(u)
	return u.size, true, nil
}
