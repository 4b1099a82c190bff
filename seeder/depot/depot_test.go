package depot

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"github.com/murmuration/murmuration/internal/artifact"
	"github.com/murmuration/murmuration/internal/memstore"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/release"
	"github.com/murmuration/murmuration/rollout"
)

// fakeAudit commits to the store and remembers what was audited.
type fakeAudit struct {
	store record.Store
	mu    sync.Mutex
	lines []string
}

func (a *fakeAudit) Commit(ctx context.Context, what, object, why string, _, _ any, ops ...record.Op) (int64, error) {
	rev, err := a.store.Commit(ctx, ops...)
	if err == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.lines = append(a.lines, strings.TrimSpace(what+" "+object+" "+why))
	}
	return rev, err
}

// fakeVerifier accepts the envelope "signed".
type fakeVerifier struct{}

func (fakeVerifier) VerifyRelease(_ context.Context, _ release.Manifest, _, envelope []byte) (string, error) {
	if string(envelope) != "signed" {
		return "", errors.New("no known key signed this")
	}
	return "key-1", nil
}

type fixture struct {
	*Depot
	store     record.Store
	audit     *fakeAudit
	server    *httptest.Server
	published []string
	dropped   []string
	dir       string
}

func newFixture(t *testing.T, change func(*Config)) *fixture {
	t.Helper()
	store := memstore.New()
	t.Cleanup(func() { store.Close() })
	return openFixture(t, t.TempDir(), store, change)
}

func openFixture(t *testing.T, dir string, store record.Store, change func(*Config)) *fixture {
	t.Helper()
	f := &fixture{store: store, audit: &fakeAudit{store: store}, dir: dir}
	cfg := Config{
		Dir: dir, Store: store, Audit: f.audit, Verifier: fakeVerifier{}, Keep: 2, MinFree: 1,
		Log:         slog.New(slog.NewTextHandler(t.Output(), nil)),
		Who:         func(context.Context) string { return "ada" },
		OnPublished: func(r record.Release) { f.published = append(f.published, r.Infohash) },
		OnDropped:   func(r record.Release) { f.dropped = append(f.dropped, r.Infohash) },
		Info: func(_ context.Context, path, name string) ([]byte, string, error) {
			if _, err := os.Stat(path); err != nil {
				return nil, "", err
			}
			return []byte("info of " + name), "hash of " + name, nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.Depot, f.server = d, httptest.NewServer(d.ArtifactHandler())
	t.Cleanup(func() { f.server.Close(); d.Close() })
	return f
}

// build packs a folder with one file of the content given and makes a manifest for it.
func build(t *testing.T, content string) (release.Manifest, []byte) {
	t.Helper()
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "app"), []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	a, _, err := artifact.Pack(t.Context(), src, &file, artifact.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return release.Manifest{
		Version: release.ManifestVersion, Service: "web", ID: uuid.Must(uuid.NewV7()).String(),
		Commit: release.DigestOf([]byte(content)).Hex()[:40], Subject: content[:min(len(content), 20)], CreatedAt: time.Now(), Artifact: a,
		Recipe: release.Recipe{Service: "web", Selector: "role=web"}.WithDefaults(),
	}, file.Bytes()
}

func (f *fixture) begin(t *testing.T, a release.Artifact) *murmurv1.BeginUploadResponse {
	t.Helper()
	resp, err := f.BeginUpload(t.Context(), connect.NewRequest(&murmurv1.BeginUploadRequest{Digest: string(a.Digest), Size: a.Size}))
	if err != nil {
		t.Fatal(err)
	}
	return resp.Msg
}

// put sends body at offset and returns the status and the Upload-Offset answered.
func (f *fixture) put(t *testing.T, digest release.Digest, offset int64, body io.Reader) (status int, at int64) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, f.server.URL+"/v1/artifacts/"+string(digest), body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(offsetHeader, strconv.FormatInt(offset, 10))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	at, _ = strconv.ParseInt(resp.Header.Get(offsetHeader), 10, 64)
	return resp.StatusCode, at
}

func (f *fixture) upload(t *testing.T, a release.Artifact, file []byte) {
	t.Helper()
	f.begin(t, a)
	if status, _ := f.put(t, a.Digest, 0, bytes.NewReader(file)); status != http.StatusCreated {
		t.Fatalf("upload: status %d", status)
	}
}

func (f *fixture) tryPublish(t *testing.T, m release.Manifest, envelope string) (*murmurv1.PublishResponse, error) {
	t.Helper()
	manifest, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := f.Publish(t.Context(), connect.NewRequest(&murmurv1.PublishRequest{Manifest: manifest, Envelope: []byte(envelope)}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// release1 builds, uploads and publishes.
func (f *fixture) release1(t *testing.T, content string) release.Manifest {
	t.Helper()
	m, file := build(t, content)
	f.upload(t, m.Artifact, file)
	if _, err := f.tryPublish(t, m, "signed"); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestUploadResumes(t *testing.T) {
	f := newFixture(t, nil)
	m, file := build(t, "hello")
	if status, _ := f.put(t, m.Artifact.Digest, 0, bytes.NewReader(file)); status != http.StatusPreconditionRequired {
		t.Errorf("PUT without BeginUpload: status %d", status)
	}
	if got := f.begin(t, m.Artifact); got.Offset != 0 || got.Complete {
		t.Errorf("begin: %v", got)
	}
	if status, at := f.put(t, m.Artifact.Digest, 0, bytes.NewReader(file[:10])); status != http.StatusAccepted || at != 10 {
		t.Errorf("first part: status %d at %d", status, at)
	}
	if status, at := f.put(t, m.Artifact.Digest, 5, bytes.NewReader(file[5:])); status != http.StatusConflict || at != 10 {
		t.Errorf("wrong offset: status %d at %d, want 409 at 10", status, at)
	}
	// The sender dies: what came stays.
	broken := io.MultiReader(bytes.NewReader(file[10:20]), failingReader{})
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, f.server.URL+"/v1/artifacts/"+string(m.Artifact.Digest), broken)
	req.Header.Set(offsetHeader, "10")
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Error("a broken body was sent whole")
	}
	f.server.Close() // waits for the handler, then the seeder restarts
	g := openFixture(t, f.dir, f.store, nil)
	at := g.begin(t, m.Artifact).Offset
	if at < 10 || at > 20 {
		t.Errorf("after the restart the upload stands at %d, want 10..20", at)
	}
	if status, _ := g.put(t, m.Artifact.Digest, at, bytes.NewReader(file[at:])); status != http.StatusCreated {
		t.Errorf("last part: status %d", status)
	}
	if got := g.begin(t, m.Artifact); !got.Complete {
		t.Errorf("begin of what is there: %v", got)
	}
	if status, _ := g.put(t, m.Artifact.Digest, 0, bytes.NewReader(file)); status != http.StatusCreated {
		t.Errorf("PUT of what is there: status %d", status)
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("the sender dies") }

func TestUploadRefuses(t *testing.T) {
	f := newFixture(t, nil)
	m, file := build(t, "hello")
	f.begin(t, m.Artifact)
	if status, _ := f.put(t, m.Artifact.Digest, 0, bytes.NewReader(append(slices.Clone(file), 'x'))); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a byte too many: status %d", status)
	}
	f = newFixture(t, nil)
	f.begin(t, m.Artifact)
	wrong := slices.Clone(file)
	wrong[3] ^= 1
	if status, at := f.put(t, m.Artifact.Digest, 0, bytes.NewReader(wrong)); status != http.StatusUnprocessableEntity || at != 0 {
		t.Errorf("wrong bytes: status %d at %d, want 422 at 0", status, at)
	}
	if f.Has(m.Artifact.Digest) {
		t.Error("wrong bytes became an artifact")
	}
	f.upload(t, m.Artifact, file) // and the right ones still can
	for _, digest := range []string{"sha256:../../etc/passwd", "x", "sha256:" + strings.Repeat("G", 64)} {
		if _, err := f.BeginUpload(t.Context(), connect.NewRequest(&murmurv1.BeginUploadRequest{Digest: digest, Size: 1})); !wire.Is(err, connect.CodeInvalidArgument) {
			t.Errorf("digest %q: %v", digest, err)
		}
	}
	full := newFixture(t, func(c *Config) { c.MinFree = 1 << 60 })
	_, err := full.BeginUpload(t.Context(), connect.NewRequest(&murmurv1.BeginUploadRequest{Digest: string(m.Artifact.Digest), Size: 5}))
	if !wire.Is(err, connect.CodeResourceExhausted) || !strings.Contains(err.Error(), "not enough disk space") {
		t.Errorf("full disk: %v", err)
	}
}

func TestConcurrentUploadsOfOneArtifact(t *testing.T) {
	f := newFixture(t, nil)
	m, file := build(t, strings.Repeat("x", 1<<20))
	f.begin(t, m.Artifact)
	statuses := make([]int, 4)
	var group sync.WaitGroup
	for i := range statuses {
		group.Go(func() { statuses[i], _ = f.put(t, m.Artifact.Digest, 0, bytes.NewReader(file)) })
	}
	group.Wait()
	if !slices.Contains(statuses, http.StatusCreated) || !f.Has(m.Artifact.Digest) {
		t.Errorf("statuses %v", statuses)
	}
	for _, s := range statuses {
		if s != http.StatusCreated && s != http.StatusConflict {
			t.Errorf("statuses %v, want 201 and 409 only", statuses)
		}
	}
}

func TestDownloadWithRanges(t *testing.T) {
	f := newFixture(t, nil)
	m, file := build(t, "hello")
	f.upload(t, m.Artifact, file)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, f.server.URL+"/v1/artifacts/"+string(m.Artifact.Digest), nil)
	req.Header.Set("Range", "bytes=5-9")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusPartialContent || !bytes.Equal(got, file[5:10]) {
		t.Errorf("range: status %d, %d bytes", resp.StatusCode, len(got))
	}
	resp, err = http.Head(f.server.URL + "/v1/artifacts/" + string(m.Artifact.Digest))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength != int64(len(file)) || resp.Header.Get("ETag") == "" {
		t.Errorf("HEAD: %v", resp)
	}
	resp, err = http.Get(f.server.URL + "/v1/artifacts/" + string(release.DigestOf(nil)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("unknown artifact: status %d", resp.StatusCode)
	}
}

func TestPublish(t *testing.T) {
	f := newFixture(t, nil)
	m, file := build(t, "hello")
	if _, err := f.tryPublish(t, m, "signed"); !wire.Is(err, connect.CodeFailedPrecondition) {
		t.Errorf("before the upload: %v", err)
	}
	f.upload(t, m.Artifact, file)
	if _, err := f.tryPublish(t, m, "forged"); !wire.Is(err, connect.CodePermissionDenied) {
		t.Errorf("forged: %v", err)
	}
	resp, err := f.tryPublish(t, m, "signed")
	if err != nil || resp.Already || resp.Release.Id != m.ID || resp.Release.SignedBy != "key-1" {
		t.Fatalf("publish: %v, %v", resp, err)
	}
	if resp, err := f.tryPublish(t, m, "signed"); err != nil || !resp.Already || resp.Release.Id != m.ID {
		t.Errorf("again: %v, %v", resp, err)
	}
	twin := m
	twin.ID = uuid.Must(uuid.NewV7()).String()
	if resp, err := f.tryPublish(t, twin, "signed"); err != nil || !resp.Already || resp.Release.Id != m.ID {
		t.Errorf("the same commit built twice: %v, %v", resp, err)
	}
	other := m
	other.Subject = "another story"
	if _, err := f.tryPublish(t, other, "signed"); !wire.Is(err, connect.CodeAlreadyExists) {
		t.Errorf("another manifest under the id: %v", err)
	}
	if len(f.published) != 1 {
		t.Errorf("OnPublished was told %v", f.published)
	}
	if want := []string{"release.publish web/" + m.ID + " hello"}; !slices.Equal(f.audit.lines, want) {
		t.Errorf("audit %q, want %q", f.audit.lines, want)
	}
	s, err := f.service(t.Context(), "web")
	if err != nil || s.Selector != "role=web" {
		t.Errorf("service %+v, %v", s, err)
	}
}

func TestPublishRefusesFalseClaims(t *testing.T) {
	f := newFixture(t, nil)
	m, file := build(t, "hello")
	f.upload(t, m.Artifact, file)
	for name, change := range map[string]func(*release.Artifact){
		"raw digest": func(a *release.Artifact) { a.RawDigest = release.DigestOf(nil) },
		"raw size":   func(a *release.Artifact) { a.RawSize++ },
		"files":      func(a *release.Artifact) { a.Files++ },
		"index":      func(a *release.Artifact) { a.IndexDigest = release.DigestOf(nil) },
		"size":       func(a *release.Artifact) { a.Size++; a.IndexSize++ },
	} {
		lie := m
		change(&lie.Artifact)
		if _, err := f.tryPublish(t, lie, "signed"); !wire.Is(err, connect.CodeInvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(f.published) > 0 {
		t.Errorf("published %v", f.published)
	}
}

func TestConcurrentPublishMakesOneRelease(t *testing.T) {
	f := newFixture(t, nil)
	m, file := build(t, "hello")
	f.upload(t, m.Artifact, file)
	fresh := make([]bool, 6)
	var group sync.WaitGroup
	for i := range fresh {
		group.Go(func() {
			resp, err := f.tryPublish(t, m, "signed")
			if err != nil {
				t.Error(err)
				return
			}
			fresh[i] = !resp.Already
		})
	}
	group.Wait()
	if n := len(slices.DeleteFunc(fresh, func(b bool) bool { return !b })); n != 1 || len(f.published) != 1 {
		t.Errorf("%d publishes say they were the first, OnPublished %d times", n, len(f.published))
	}
}

func TestResolve(t *testing.T) {
	f := newFixture(t, nil)
	one, two := f.release1(t, "one"), f.release1(t, "two")
	_, err := record.Modify(t.Context(), f.store, record.Key{Kind: record.KindService, ID: "web"}, func(s *record.Service) error {
		s.Stable, s.Previous = two.ID, one.ID
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		one.ID: one.ID, "stable": two.ID, "previous": one.ID, "latest": two.ID,
		one.Commit: one.ID, two.Commit: two.ID, two.ID[:35]: two.ID,
	} {
		if _, m, err := f.Resolve(t.Context(), "web", name); err != nil || m.ID != want {
			t.Errorf("%q is %s (%v), want %s", name, m.ID, err, want)
		}
	}
	for name, code := range map[string]connect.Code{
		one.ID[:4]: connect.CodeInvalidArgument, "00": connect.CodeInvalidArgument, "": connect.CodeInvalidArgument,
		"ffffff": connect.CodeNotFound, uuid.Must(uuid.NewV7()).String(): connect.CodeNotFound,
	} {
		if _, _, err := f.Resolve(t.Context(), "web", name); !wire.Is(err, code) {
			t.Errorf("%q: %v, want %v", name, err, code)
		}
	}
	if _, _, err := f.Resolve(t.Context(), "other", "stable"); !wire.Is(err, connect.CodeNotFound) {
		t.Errorf("unknown service: %v", err)
	}
	page, err := f.ListReleases(t.Context(), connect.NewRequest(&murmurv1.ListReleasesRequest{Service: "web", Limit: 1}))
	if err != nil || len(page.Msg.Releases) != 1 || page.Msg.Releases[0].Id != two.ID || !page.Msg.Releases[0].Stable {
		t.Fatalf("first page: %v, %v", page, err)
	}
	page, err = f.ListReleases(t.Context(), connect.NewRequest(&murmurv1.ListReleasesRequest{Service: "web", Before: two.ID}))
	if err != nil || len(page.Msg.Releases) != 1 || page.Msg.Releases[0].Id != one.ID {
		t.Errorf("second page: %v, %v", page, err)
	}
}

func TestRetention(t *testing.T) {
	f := newFixture(t, nil)
	var m []release.Manifest
	for i := range 8 {
		m = append(m, f.release1(t, strings.Repeat("x", i+1)))
	}
	if _, err := f.PinRelease(t.Context(), connect.NewRequest(&murmurv1.PinReleaseRequest{Service: "web", Id: m[0].ID, Pinned: true})); err != nil {
		t.Fatal(err)
	}
	_, err := record.Modify(t.Context(), f.store, record.Key{Kind: record.KindService, ID: "web"}, func(s *record.Service) error {
		s.Stable, s.Previous, s.History = m[1].ID, m[2].ID, []string{m[1].ID, m[2].ID, m[4].ID}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	running := record.NewRollout(rollout.State{Phase: rollout.Baking, Plan: rollout.Plan{ID: m[3].ID, Service: "web", Release: m[3].ID}})
	ended := record.NewRollout(rollout.State{Phase: rollout.Complete, Plan: rollout.Plan{ID: m[4].ID, Service: "web", Release: m[4].ID}})
	for id, r := range map[string]record.Rollout{"a": running, "b": ended} {
		if _, err := record.Create(t.Context(), f.store, record.Key{Kind: record.KindRollout, ID: "web/" + id}, r); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := f.Retain(t.Context()); err != nil || n != 2 {
		t.Fatalf("retain dropped %d, %v; want 2", n, err)
	}
	if err := f.Clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range m {
		_, _, err := f.Resolve(t.Context(), "web", m[i].ID)
		if gone := i == 4 || i == 5; gone != wire.Is(err, connect.CodeNotFound) {
			t.Errorf("release %d: %v", i, err)
		}
		if !f.Has(m[i].Artifact.Digest) {
			t.Errorf("artifact %d was removed within its grace", i)
		}
	}
	if len(f.dropped) != 2 {
		t.Errorf("OnDropped was told %v", f.dropped)
	}
	old := time.Now().Add(-2 * grace)
	for i := range m {
		if err := os.Chtimes(f.Path(m[i].Artifact.Digest), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range m {
		if gone := i == 4 || i == 5; gone == f.Has(m[i].Artifact.Digest) {
			t.Errorf("artifact %d: here %v", i, !gone)
		}
	}
}
