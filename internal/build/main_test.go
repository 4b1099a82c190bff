package build

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/murmuration/murmuration/release"
)

func TestMain(m *testing.M) {
	// The supervisor and the confined child of a build are this test binary started again.
	MaybeSandboxChild(os.Args)
	os.Exit(m.Run())
}

func testLog(tb testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(tb.Output(), nil))
}

// testRepo is a git repository made with the real git.
type testRepo struct {
	tb  testing.TB
	dir string
}

func newRepo(tb testing.TB, args ...string) *testRepo {
	tb.Helper()
	r := &testRepo{tb: tb, dir: filepath.Join(tb.TempDir(), "web")}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	r.git(append([]string{"init", "-q", "-b", "main"}, args...)...)
	return r
}

func gitEnv() []string {
	return append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com",
		"GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000")
}

func (r *testRepo) git(args ...string) string {
	r.tb.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = r.dir, gitEnv()
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.tb.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *testRepo) write(name, content string) {
	r.tb.Helper()
	p := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		r.tb.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		r.tb.Fatal(err)
	}
}

// commit adds everything and returns the commit's id.
func (r *testRepo) commit(message string) string {
	r.tb.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", message)
	return r.git("rev-parse", "HEAD")
}

// fakeSigner puts the statement in an envelope that any test can read.
type fakeSigner struct{}

func (fakeSigner) KeyID() string { return "key-1" }
func (fakeSigner) SignStatement(statement []byte) ([]byte, error) {
	return append([]byte("signed:"), statement...), nil
}

// fakeServer is a control plane in memory. It keeps what it is told.
type fakeServer struct {
	mu        sync.Mutex
	unreached int // so many calls of Upload find nobody
	refuse    error
	cancel    bool // answer AppendLog with cancelled
	reports   []Build
	log       bytes.Buffer
	artifact  []byte
	manifests []release.Manifest
	envelopes [][]byte
}

func (s *fakeServer) Upload(_ context.Context, digest release.Digest, path string, progress func(done, total int64)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unreached > 0 {
		s.unreached--
		return ErrUnreachable
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if got := release.DigestOf(b); got != digest {
		return os.ErrInvalid
	}
	s.artifact = b
	if progress != nil {
		progress(int64(len(b)), int64(len(b)))
	}
	return nil
}

func (s *fakeServer) Publish(_ context.Context, manifest, envelope []byte, buildID string) (string, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return "", false, s.refuse
	}
	m, err := release.ParseManifest(manifest)
	if err != nil {
		return "", false, err
	}
	for _, old := range s.manifests {
		if old.Commit == m.Commit && old.Artifact.Digest == m.Artifact.Digest {
			return old.ID, true, nil
		}
	}
	s.manifests, s.envelopes = append(s.manifests, m), append(s.envelopes, envelope)
	return m.ID, false, nil
}

func (s *fakeServer) Report(_ context.Context, b Build) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, b)
	return false, nil
}

func (s *fakeServer) AppendLog(_ context.Context, service, buildID string, off int64, p []byte) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if off != int64(s.log.Len()) || len(p) > MaxLogPart {
		return false, os.ErrInvalid
	}
	s.log.Write(p)
	return s.cancel, nil
}

func (s *fakeServer) states() []State {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []State
	for _, b := range s.reports {
		if len(out) == 0 || out[len(out)-1] != b.State {
			out = append(out, b.State)
		}
	}
	return out
}

// newBuilder makes a builder with folders of its own and the server it talks to.
func newBuilder(tb testing.TB) (*Builder, *fakeServer) {
	tb.Helper()
	dir, server := tb.TempDir(), &fakeServer{}
	return &Builder{
		Work: filepath.Join(dir, "work"), Logs: filepath.Join(dir, "log"), Signer: fakeSigner{}, Publisher: server,
		Log: testLog(tb), Host: "builder-1",
		// The race detector makes every process that ends wait for a second.
		Env: map[string]string{"GORACE": "atexit_sleep_ms=0"},
	}, server
}

func readLog(tb testing.TB, b *Builder, id string) string {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(b.Logs, id+".log"))
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}
