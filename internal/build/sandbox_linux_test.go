package build

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func landlockForTest() (int, error) { return landlockABI() }

// TestConfinement tries to get out in many ways; the command itself says what it could do.
func TestConfinement(t *testing.T) {
	if landlockMissing() {
		t.Skip("this kernel can't confine a build")
	}
	out := t.TempDir()
	keys := filepath.Join(out, "keys")
	for name, content := range map[string]string{"victim": "whole", "keys/builder.key": "the secret key", "cache/x": ""} {
		p := filepath.Join(out, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	repo := newRepo(t)
	repo.write(RecipeFile, recipe(strings.ReplaceAll(`mkdir out
try() { name=$1; shift; if "$@" 2>/dev/null; then echo "can $name"; else echo "cannot $name"; fi; }
try create sh -c 'echo x > OUT/new'
try append sh -c 'echo x >> OUT/victim'
try truncate truncate -s 0 OUT/victim
try remove rm -f OUT/victim
try rename mv OUT/victim OUT/moved
try link ln out/x OUT/hard
try mkdir mkdir OUT/dir
try through-a-link sh -c 'ln -s OUT src-link && echo x > src-link/new'
try device mknod out/dev c 1 3
try read-key cat OUT/keys/builder.key
try read-beside cat OUT/victim
try list-keys ls OUT/keys
try cache sh -c 'echo x > OUT/cache/new'
try null sh -c 'echo x > /dev/null'
try stdout sh -c 'echo x > /dev/stdout'
try move-between-folders sh -c 'mkdir a b && echo x > a/f && mv a/f b/f && cat b/f'
try tmp sh -c 'echo x > $(mktemp)'
try home sh -c 'echo x > ~/x'
try kill-the-builder kill -0 $(sed -n 's/^PPid:.//p' /proc/$PPID/status)
try kill-the-supervisor kill -0 $PPID
echo x > out/file`, "OUT", out)))
	commit := repo.commit("start")
	b, server := newBuilder(t)
	b.Hide, b.Writable, b.Confine = []string{keys}, []string{filepath.Join(out, "cache")}, ConfineAlways
	res, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: commit})
	if err != nil {
		t.Fatal(err)
	}
	log := readLog(t, b, res.Build.ID)
	wants := []string{"cannot create", "cannot append", "cannot truncate", "cannot remove", "cannot rename", "cannot link",
		"cannot mkdir", "cannot through-a-link", "cannot device", "cannot read-key", "can read-beside", "can list-keys",
		"can cache", "can null", "can stdout", "can move-between-folders", "can tmp", "can home"}
	if abi, err := landlockABI(); err == nil && abi >= abiScope {
		wants = append(wants, "cannot kill-the-builder", "cannot kill-the-supervisor")
	}
	for _, want := range wants {
		if !strings.Contains(log, want+"\n") {
			t.Errorf("want %q", want)
		}
	}
	if content, err := os.ReadFile(filepath.Join(out, "victim")); err != nil || string(content) != "whole" {
		t.Errorf("victim = %q, %v", content, err)
	}
	if t.Failed() {
		t.Log(log)
	}
	if len(server.manifests) != 1 {
		t.Error("not published")
	}
}

// TestNothingOutlivesTheBuilder kills the builder with SIGKILL in the middle of a build that has a daemon; both the
// command and the daemon must end. The daemon holds a connection, whose end is the proof.
func TestNothingOutlivesTheBuilder(t *testing.T) {
	if _, err := exec.LookPath("perl"); err != nil {
		t.Skip("needs perl to connect from a shell")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	repo := newRepo(t)
	port := l.Addr().(*net.TCPAddr).Port
	hold := fmt.Sprintf(`perl -MIO::Socket -e '$s=IO::Socket::INET->new("127.0.0.1:%d"); print $s "$ARGV[0]\n"; $s->flush; sleep 600'`, port)
	repo.write(RecipeFile, recipe("setsid "+hold+" daemon &\n"+hold+" command"))
	commit := repo.commit("start")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	builder := exec.Command(exe, "-test.run=^TestHelperBuilder$")
	builder.Env = append(os.Environ(), "BUILD_TEST_REPO="+repo.dir, "BUILD_TEST_COMMIT="+commit, "BUILD_TEST_DIR="+t.TempDir())
	if err := builder.Start(); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for range 2 {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || (line != "daemon\n" && line != "command\n") {
			t.Fatalf("%q, %v", line, err)
		}
		conns = append(conns, c)
	}
	if err := builder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = builder.Wait() // "signal: killed"
	for _, c := range conns {
		// Blocks until the process at the other end is gone; a hang is the failure.
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("read %d bytes, %v", n, err)
		}
	}
}

// TestHelperBuilder is the builder that TestNothingOutlivesTheBuilder kills.
func TestHelperBuilder(t *testing.T) {
	repo := os.Getenv("BUILD_TEST_REPO")
	if repo == "" {
		t.Skip("only runs as a child of another test")
	}
	dir := os.Getenv("BUILD_TEST_DIR")
	b, _ := newBuilder(t)
	b.Work, b.Logs = filepath.Join(dir, "work"), filepath.Join(dir, "log")
	_, err := b.Build(t.Context(), Request{Repo: repo, Commit: os.Getenv("BUILD_TEST_COMMIT")})
	t.Fatalf("the build ended: %v", err)
}

func TestParentOf(t *testing.T) {
	if got := parentOf(os.Getpid()); got != os.Getppid() {
		t.Errorf("parentOf(self) = %d, want %d", got, os.Getppid())
	}
	if got := parentOf(-1); got != 0 {
		t.Errorf("parentOf(-1) = %d", got)
	}
}

// TestBuilderRefusesToStartItself is what keeps a program without [MaybeSandboxChild] from starting itself forever.
func TestBuilderRefusesToStartItself(t *testing.T) {
	t.Setenv(sandboxEnv, "1")
	repo := newRepo(t)
	repo.write(RecipeFile, recipe("true"))
	b, _ := newBuilder(t)
	if _, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: repo.commit("start")}); err == nil || !strings.Contains(err.Error(), "MaybeSandboxChild") {
		t.Errorf("error = %v", err)
	}
}

// TestReadOnlyFoldersAreRemoved leaves what Go's module cache leaves, as a user who is not root.
func TestReadOnlyFoldersAreRemoved(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(deep, "f"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{deep, filepath.Dir(deep)} {
		if err := os.Chmod(p, 0o555); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	makeWritable(root, "a")
	for _, p := range []string{deep, filepath.Dir(deep)} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", p, info.Mode(), err)
		}
	}
	if err := emptyDir(dir); err != nil {
		t.Error(err)
	}
	if err := unix.Access(deep, unix.F_OK); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("after emptying: %v", err)
	}
}

func TestUnconfinedBuildIsSaidLoudly(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	repo := newRepo(t)
	repo.write(RecipeFile, recipe("mkdir out && echo x > out/file && echo x > "+outside))
	b, _ := newBuilder(t)
	b.Confine = ConfineNever
	res, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: repo.commit("start")})
	if err != nil {
		t.Fatal(err)
	}
	if log := readLog(t, b, res.Build.ID); !strings.Contains(log, "murmur: WARNING: this build is not confined") {
		t.Errorf("log:\n%s", log)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("the test proves nothing: %v", err)
	}
}

// TestBadConfinementFailsTheBuild names a folder that is not there: a mistake of the operator must not become an
// unconfined build.
func TestBadConfinementFailsTheBuild(t *testing.T) {
	if landlockMissing() {
		t.Skip("this kernel can't confine a build")
	}
	repo := newRepo(t)
	repo.write(RecipeFile, recipe("mkdir out && echo x > out/file"))
	b, server := newBuilder(t)
	b.Writable = []string{"/nowhere/cache"}
	res, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: repo.commit("start")})
	if err == nil || !strings.Contains(err.Error(), "allow writing below /nowhere/cache") {
		t.Errorf("error = %v", err)
	}
	b.maxLog = 1 << 20
	checkFailed(t, b, server, res)
}
