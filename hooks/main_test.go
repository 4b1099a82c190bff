package hooks

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/murmuration/murmuration/internal/build"
	"github.com/murmuration/murmuration/release"
)

// Variables that make the test binary, run by a hook, stand in for murmur.
const (
	envHold   = "HOOKS_TEST_HOLD"   // start no drainer, so that the queue can be looked at
	envNotify = "HOOKS_TEST_NOTIFY" // a unix socket the drainer tells when it is done
)

func TestMain(m *testing.M) {
	build.MaybeSandboxChild(os.Args)
	if len(os.Args) > 2 && os.Args[1] == "hooks" {
		if err := murmur(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "murmur:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// murmur is the part of the real program's command line that hooks use.
func murmur(verb string, args []string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx := context.Background()
	switch verb {
	case "run":
		c := Call{Name: args[0], Args: args[1:], Stdin: os.Stdin, Stderr: os.Stderr, Log: log}
		if os.Getenv(envHold) != "" {
			c.Spawn = func(string, []string, string, string) error { return nil }
		}
		return Run(ctx, c)
	case "drain":
		gitDir, state := args[1], args[3]
		err := Drain(ctx, gitDir, state, log, func(logs string) build.Runner {
			return &build.Builder{
				Work: filepath.Join(state, "work"), Logs: logs, Signer: fakeSigner{}, Publisher: folderServer(state), Log: log,
				Env: map[string]string{"GORACE": "atexit_sleep_ms=0"},
			}
		})
		conn, dialErr := net.Dial("unix", os.Getenv(envNotify))
		if dialErr != nil {
			return dialErr
		}
		fmt.Fprint(conn, err)
		return conn.Close()
	}
	return fmt.Errorf("unknown verb %q", verb)
}

type fakeSigner struct{}

func (fakeSigner) KeyID() string                                  { return "key-1" }
func (fakeSigner) SignStatement(statement []byte) ([]byte, error) { return statement, nil }

// folderServer is a control plane that keeps published manifests as files in a folder.
type folderServer string

func (folderServer) Upload(context.Context, release.Digest, string, func(done, total int64)) error {
	return nil
}

func (s folderServer) Publish(_ context.Context, manifest, _ []byte, _ string) (string, bool, error) {
	m, err := release.ParseManifest(manifest)
	if err != nil {
		return "", false, err
	}
	return m.ID, false, os.WriteFile(filepath.Join(string(s), "published-"+m.ID+".json"), manifest, 0o600)
}

func (folderServer) Report(context.Context, build.Build) (bool, error) { return false, nil }
func (folderServer) AppendLog(context.Context, string, string, int64, []byte) (bool, error) {
	return false, nil
}

func (s folderServer) published(tb testing.TB) []release.Manifest {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(string(s), "published-*.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var out []release.Manifest
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		var m release.Manifest
		if err := json.Unmarshal(b, &m); err != nil {
			tb.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// testGit is a folder in which the real git is run.
type testGit struct {
	tb  testing.TB
	dir string
	env []string
}

func newGit(tb testing.TB, dir string) *testGit {
	tb.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	return &testGit{tb: tb, dir: dir, env: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + tb.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "LANG=C",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com",
		"GORACE=atexit_sleep_ms=0", envHold + "=1",
	}}
}

// git runs git and returns everything it printed, hooks included.
func (g *testGit) git(args ...string) string {
	g.tb.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = g.dir, g.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.tb.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (g *testGit) write(name, content string, mode os.FileMode) {
	g.tb.Helper()
	p := filepath.Join(g.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		g.tb.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), mode); err != nil {
		g.tb.Fatal(err)
	}
	if err := os.Chmod(p, mode); err != nil {
		g.tb.Fatal(err)
	}
}

// commit returns the new commit and what was printed meanwhile.
func (g *testGit) commit(message string) (id, output string) {
	g.tb.Helper()
	g.git("add", "-A")
	output = g.git("commit", "-q", "--allow-empty", "-m", message)
	return g.git("rev-parse", "HEAD"), output
}

// newPair makes a developer's clone and a bare repository with our hooks, and a first commit that is not pushed.
func newPair(tb testing.TB, o Options) (dev, bare *testGit) {
	tb.Helper()
	dir := tb.TempDir()
	bare = newGit(tb, filepath.Join(dir, "web.git"))
	bare.git("init", "-q", "--bare", "-b", "main")
	o.Repo = bare.dir
	if _, err := Install(tb.Context(), o); err != nil {
		tb.Fatal(err)
	}
	dev = newGit(tb, filepath.Join(dir, "dev"))
	dev.git("init", "-q", "-b", "main")
	dev.git("remote", "add", "origin", bare.dir)
	dev.write("murmur.yaml", "service: web\n", 0o644)
	dev.commit("start")
	return dev, bare
}

// waiting returns what is queued, as "short commit ref".
func waiting(tb testing.TB, gitDir string) []string {
	tb.Helper()
	q, err := build.OpenQueue(filepath.Join(gitDir, "murmur"), gitDir, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	jobs, err := q.Waiting()
	if err != nil {
		tb.Fatal(err)
	}
	var out []string
	for _, j := range jobs {
		out = append(out, j.Request.Commit[:7]+" "+j.Request.Ref)
	}
	return out
}
