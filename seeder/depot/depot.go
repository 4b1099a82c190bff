package depot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/murmuration/murmuration/internal/artifact"
	"github.com/murmuration/murmuration/internal/durable"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"
	"github.com/murmuration/murmuration/release"
)

// The folders of a depot.
const (
	artifactDir = "artifacts"
	uploadDir   = "uploads"
	logDir      = "logs"
)

// DefaultMinFree is how many bytes of disk an upload must leave free.
const DefaultMinFree = 1 << 30

// Verifier checks the signature over a manifest and the policy for who may sign what. KeyID names the signing
// key; a refusal is an error fit for the builder to read.
type Verifier interface {
	VerifyRelease(ctx context.Context, m release.Manifest, manifest, envelope []byte) (keyID string, err error)
}

// Auditor commits ops together with an audit record of who (from ctx) did what to which object, and why.
type Auditor interface {
	Commit(ctx context.Context, what, object, why string, before, after any, ops ...record.Op) (rev int64, err error)
}

// InfoMaker makes the torrent of the file at path, under the name given: the bencoded info dictionary and its
// SHA-1 in hex.
type InfoMaker func(ctx context.Context, path, name string) (info []byte, infohash string, err error)

// Config is what a depot needs. Dir, Store, Audit, Verifier, Info and Log must be set.
type Config struct {
	// Dir is the depot's own folder; it is made when missing.
	Dir      string
	Store    record.Store
	Audit    Auditor
	Verifier Verifier
	Info     InfoMaker
	Log      *slog.Logger
	// Keep is how many releases of a service retention keeps at least; default [release.DefaultKeep].
	Keep int
	// MinFree is how many bytes of disk an upload must leave free; default [DefaultMinFree].
	MinFree int64
	// Who names the caller for a release's record; may be nil.
	Who func(ctx context.Context) string
	// OnPublished and OnDropped are told of a release that this depot published or dropped, after the record is
	// committed. They are called one at a time and must not call the depot's Publish or Retain. May be nil.
	OnPublished func(record.Release)
	OnDropped   func(record.Release)
}

// Depot is the artifact store and the ReleaseService. Make it with [New]. It is safe for concurrent use.
type Depot struct {
	cfg  Config
	root *os.Root

	// publishing is held while a release is made or dropped, and while files are cleaned, so that no artifact
	// is removed between the check for it and the record that needs it.
	publishing sync.Mutex

	// appending is held while a log is written.
	appending sync.Mutex

	mu      sync.Mutex
	uploads map[release.Digest]*upload
	logs    map[string]*buildLog
}

var _ murmurv1connect.ReleaseServiceHandler = (*Depot)(nil)

// New opens the depot in cfg.Dir. Call [Depot.Close] when done.
func New(cfg Config) (*Depot, error) {
	cfg.Keep = cmp.Or(cfg.Keep, release.DefaultKeep)
	cfg.MinFree = cmp.Or(cfg.MinFree, DefaultMinFree)
	if cfg.Store == nil || cfg.Audit == nil || cfg.Verifier == nil || cfg.Info == nil || cfg.Log == nil {
		return nil, errors.New("depot: Store, Audit, Verifier, Info and Log must be set")
	}
	for _, dir := range []string{artifactDir, uploadDir, logDir} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, dir), 0o700); err != nil {
			return nil, fmt.Errorf("depot: %w", err)
		}
	}
	root, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("depot: %w", err)
	}
	if err := durable.RemoveTemp(root, artifactDir); err != nil {
		return nil, errors.Join(fmt.Errorf("depot: %w", err), root.Close())
	}
	return &Depot{cfg: cfg, root: root, uploads: map[release.Digest]*upload{}, logs: map[string]*buildLog{}}, nil
}

// Close closes the depot's files. Handlers must have ended.
func (d *Depot) Close() error { return d.root.Close() }

func artifactName(digest release.Digest) string { return artifactDir + "/" + digest.Hex() }

// Path returns where the artifact is, for a torrent engine that reads it in place. The file may not exist; see
// [Depot.Has]. A malformed digest gives "".
func (d *Depot) Path(digest release.Digest) string {
	if digest.Hex() == "" {
		return ""
	}
	return filepath.Join(d.cfg.Dir, artifactDir, digest.Hex())
}

// Has reports whether the whole artifact is here.
func (d *Depot) Has(digest release.Digest) bool {
	if digest.Hex() == "" {
		return false
	}
	info, err := d.root.Lstat(artifactName(digest))
	return err == nil && info.Mode().IsRegular()
}

// Open opens an artifact for reading; the error wraps fs.ErrNotExist when it is not here.
func (d *Depot) Open(digest release.Digest) (*os.File, error) {
	if digest.Hex() == "" {
		return nil, fmt.Errorf("artifact %.80q: %w", string(digest), fs.ErrNotExist)
	}
	f, err := d.root.Open(artifactName(digest))
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", digest, err)
	}
	return f, nil
}

// Import takes in an artifact that came another way than an upload, for example from the swarm. It copies
// content, checks it against a and makes it visible; an artifact that is here already is left alone.
func (d *Depot) Import(ctx context.Context, a release.Artifact, content io.Reader) error {
	if err := a.Validate(); err != nil {
		return fmt.Errorf("import artifact: %w", err)
	}
	if d.Has(a.Digest) {
		return nil
	}
	if err := d.room(a.Size); err != nil {
		return fmt.Errorf("import artifact: %w", err)
	}
	var check error
	pipeIn, pipeOut := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		check = artifact.VerifyFile(ctx, io.TeeReader(content, pipeOut), a)
		pipeOut.CloseWithError(check) // nil ends the copy well
	}()
	err := durable.WriteFrom(d.root, artifactName(a.Digest), pipeIn, 0o400)
	pipeIn.CloseWithError(err)
	<-done
	if err := cmp.Or(check, err); err != nil {
		return fmt.Errorf("import artifact %s: %w", a.Digest, err)
	}
	return nil
}

// who names the caller in ctx.
func (d *Depot) who(ctx context.Context) string {
	if d.cfg.Who == nil {
		return ""
	}
	return d.cfg.Who(ctx)
}
