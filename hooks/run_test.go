package hooks

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPushes(t *testing.T) {
	dev, bare := newPair(t, Options{Server: "https://murmur.example/"})
	head := func() string { return dev.git("rev-parse", "--short=7", "HEAD") }
	var want []string
	check := func(what string) {
		t.Helper()
		if diff := cmp.Diff(want, waiting(t, bare.dir)); diff != "" {
			t.Errorf("queue after %s (-want +got):\n%s", what, diff)
		}
	}

	out := dev.git("push", "origin", "main")
	want = append(want, head()+" refs/heads/main")
	check("a push")
	for _, line := range []string{
		"remote: murmur: building " + head() + " of web (main)", "remote: murmur:   https://murmur.example/builds/0", "murmur build watch 0",
	} {
		if !strings.Contains(out, line) {
			t.Errorf("output lacks %q:\n%s", line, out)
		}
	}
	if out := dev.git("push", "origin", "main"); strings.Contains(out, "murmur:") {
		t.Errorf("a push of nothing built something: %s", out)
	}
	check("a push of nothing")

	dev.git("checkout", "-q", "-b", "topic")
	dev.commit("on a topic branch")
	dev.git("push", "-q", "origin", "topic")
	check("a push of a branch that is not deployed")

	dev.git("checkout", "-q", "main")
	dev.commit("meanwhile on main")
	dev.git("merge", "-q", "--no-ff", "-m", "merge topic", "topic")
	dev.git("tag", "-a", "-m", "v1", "v1")
	dev.git("push", "-q", "origin", "main", "v1", "topic")
	want = append(want, head()+" refs/heads/main")
	check("a push of a merge with a tag")

	dev.git("reset", "-q", "--hard", "HEAD~1")
	dev.commit("another way")
	dev.git("push", "-q", "-f", "origin", "main", "main:master")
	want = append(want, head()+" refs/heads/main", head()+" refs/heads/master")
	check("a forced push of two branches")

	dev.git("push", "-q", "origin", ":master", ":topic", ":v1")
	check("deletions")
}

func TestPushOfTagsWhenAsked(t *testing.T) {
	dev, bare := newPair(t, Options{Refs: []string{"refs/tags/v*", "refs/heads/release/**"}})
	dev.git("tag", "-a", "-m", "one", "v1")
	dev.git("tag", "other")
	dev.git("push", "-q", "origin", "main", "main:release/2026/a", "v1", "other")
	want := []string{
		dev.git("rev-parse", "--short=7", "HEAD") + " refs/heads/release/2026/a",
		dev.git("rev-parse", "--short=7", "v1") + " refs/tags/v1",
	}
	if diff := cmp.Diff(want, waiting(t, bare.dir)); diff != "" {
		t.Errorf("queue (-want +got):\n%s", diff)
	}
}

func TestPushSaysWhatIsWrong(t *testing.T) {
	dev, bare := newPair(t, Options{})
	dev.write("murmur.yaml", "service: web\nbuild:\n  comand: make\n", 0o644)
	dev.commit("typo")
	out := dev.git("push", "origin", "main")
	for _, want := range []string{"this build will fail:", "murmur.yaml:3:3: unknown key `comand` (did you mean `command`?)"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	if n := len(waiting(t, bare.dir)); n != 1 {
		t.Errorf("%d builds queued; the failure must become a record", n)
	}
	dev.git("rm", "-q", "murmur.yaml")
	dev.commit("no recipe")
	if out := dev.git("push", "origin", "main"); !strings.Contains(out, "has no murmur.yaml at its root: nothing to build") {
		t.Errorf("output: %s", out)
	}
	if n := len(waiting(t, bare.dir)); n != 1 {
		t.Errorf("%d builds queued", n)
	}
}

// TestPushReturnsWhileBuilding pushes a build that waits until the push has returned, then lets it finish.
func TestPushReturnsWhileBuilding(t *testing.T) {
	dev, bare := newPair(t, Options{})
	fifo := filepath.Join(t.TempDir(), "go-on")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	drained := listen(t, dev)
	dev.write("murmur.yaml", "service: web\nbuild:\n  command: cat "+fifo+" && mkdir out && echo 1 > out/file\n  output: out\n", 0o644)
	id, _ := dev.commit("wait")
	dev.git("push", "-q", "origin", "main")
	if err := os.WriteFile(fifo, []byte("go on\n"), 0); err != nil {
		t.Fatal(err)
	}
	if msg := drained(); msg != "<nil>" {
		t.Errorf("drainer: %s", msg)
	}
	state := filepath.Join(bare.dir, "murmur")
	got := folderServer(state).published(t)
	if len(got) != 1 || got[0].Commit != id || got[0].Repo != "web" || got[0].Ref != "refs/heads/main" {
		log, _ := os.ReadFile(filepath.Join(state, "drain.log"))
		t.Errorf("published %+v\ndrainer's log:\n%s", got, log)
	}
	if left := waiting(t, bare.dir); left != nil {
		t.Errorf("still queued: %v", left)
	}
}

// listen lets the drainer run, and returns a function that waits for what it says in the end.
func listen(t *testing.T, g *testGit) func() string {
	t.Helper()
	dir, err := os.MkdirTemp("", "n") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	g.env = append(g.env, envHold+"=", envNotify+"="+l.Addr().String())
	return func() string {
		if err := l.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		msg, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		return string(msg)
	}
}

func TestCommits(t *testing.T) {
	dev := newGit(t, filepath.Join(t.TempDir(), "shop"))
	dev.git("init", "-q", "-b", "main")
	if _, err := Install(t.Context(), Options{Repo: dev.dir}); err != nil {
		t.Fatal(err)
	}
	dev.write("murmur.yaml", "service: shop\n", 0o644)
	first, out := dev.commit("start")
	if !strings.Contains(out, "murmur: building "+first[:7]+" of shop (main)") {
		t.Errorf("output: %s", out)
	}
	dev.git("checkout", "-q", "-b", "topic")
	if _, out := dev.commit("elsewhere"); out != "" {
		t.Errorf("a commit on another branch printed %q", out)
	}
	dev.git("checkout", "-q", "--detach", "main")
	dev.commit("nowhere")
	// A linked work tree shares hooks, settings and queue.
	dev.git("checkout", "-q", "topic")
	dev.git("worktree", "add", "-q", "../shop-main", "main")
	linked := newGit(t, filepath.Join(dev.dir, "../shop-main"))
	second, _ := linked.commit("in a linked work tree")
	want := []string{first[:7] + " refs/heads/main", second[:7] + " refs/heads/main"}
	if diff := cmp.Diff(want, waiting(t, filepath.Join(dev.dir, ".git"))); diff != "" {
		t.Errorf("queue (-want +got):\n%s", diff)
	}
}

// TestNothingBreaksAPush makes everything around the hook fail; git must go on, with a warning.
func TestNothingBreaksAPush(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dev, bare *testGit)
		want  string
	}{
		{"queue can't be written", func(_ *testing.T, _, bare *testGit) { bare.write("murmur", "a file", 0o644) }, "WARNING: nothing is built"},
		{"bad settings", func(_ *testing.T, _, bare *testGit) { bare.git("config", "murmur.refs", "main") }, `"main" is not a pattern`},
		{"program gone", func(t *testing.T, _, bare *testGit) {
			hook := filepath.Join(bare.dir, "hooks", "post-receive")
			b, err := os.ReadFile(hook)
			if err != nil {
				t.Fatal(err)
			}
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			bare.write("hooks/post-receive", strings.ReplaceAll(string(b), exe, "/nowhere/murmur"), 0o755)
		}, "/nowhere/murmur is not there"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dev, bare := newPair(t, Options{})
			tt.spoil(t, dev, bare)
			if out := dev.git("push", "origin", "main"); !strings.Contains(out, tt.want) {
				t.Errorf("output lacks %q:\n%s", tt.want, out)
			}
			if got, want := bare.git("rev-parse", "main"), dev.git("rev-parse", "main"); got != want {
				t.Errorf("main is at %s, want %s", got, want)
			}
		})
	}
}

func TestDrainerThatCannotStart(t *testing.T) {
	dev, bare := newPair(t, Options{})
	dev.git("push", "-q", "origin", "main")
	id := dev.git("rev-parse", "HEAD")
	var out bytes.Buffer
	err := Run(t.Context(), Call{
		Name: "post-receive", Stdin: strings.NewReader(zeroID + " " + id + " refs/heads/main\n"), Stderr: &out,
		Dir: bare.dir, Log: slog.New(slog.DiscardHandler),
		Spawn: func(string, []string, string, string) error { return errors.New("no more processes") },
	})
	if err != nil || !strings.Contains(out.String(), "no more processes; start it with: murmur hooks drain --repo ") {
		t.Errorf("error = %v, output:\n%s", err, &out)
	}
	if n := len(waiting(t, bare.dir)); n != 2 {
		t.Errorf("%d builds queued, want both", n)
	}
}

func TestUnknownHook(t *testing.T) {
	if err := Run(t.Context(), Call{Name: "post-checkout", Stderr: io.Discard}); !errors.Is(err, ErrUnknownHook) {
		t.Errorf("error = %v", err)
	}
}
