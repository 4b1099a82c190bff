package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/murmuration/murmuration/internal/artifact"
	"github.com/murmuration/murmuration/release"
)

// recipe renders a murmur.yaml with one build command.
func recipe(command string, more ...string) string {
	var b strings.Builder
	b.WriteString("service: web\nbuild:\n  command: |\n")
	for line := range strings.SplitSeq(command, "\n") {
		b.WriteString("    " + line + "\n")
	}
	b.WriteString("  output: out\n")
	for _, line := range more {
		b.WriteString("  " + line + "\n")
	}
	return b.String()
}

func TestBuildPublishes(t *testing.T) {
	repo := newRepo(t)
	repo.write(RecipeFile, recipe("mkdir out && cp hello.sh out/ && echo built $MURMUR_COMMIT at $SOURCE_DATE_EPOCH"))
	repo.write("hello.sh", "#!/bin/sh\necho hello\n")
	first := repo.commit("start")
	repo.write("hello.sh", "#!/bin/sh\necho hello, world\n")
	if err := os.Chmod(filepath.Join(repo.dir, "hello.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	second := repo.commit("greet the world\n\nBecause.\n\nReviewed-by: Grace <grace@example.com>")
	b, server := newBuilder(t)
	b.Previous = func(_ context.Context, service string) (string, error) {
		if service != "web" {
			t.Errorf("asked for the previous release of %q", service)
		}
		return first, nil
	}
	res, err := b.Build(t.Context(), Request{Repo: repo.dir, RepoName: "git@example.com:web", Commit: second, Ref: "refs/heads/main"})
	if err != nil {
		t.Fatal(err)
	}
	m := server.manifests[0]
	want := release.Manifest{
		Version: 1, Service: "web", ID: m.ID, Commit: second, Ref: "refs/heads/main", Repo: "git@example.com:web",
		Author: "Ada <ada@example.com>", Subject: "greet the world", Reviewers: []string{"Grace <grace@example.com>"},
		CreatedAt: m.CreatedAt, Artifact: m.Artifact, Recipe: m.Recipe,
		Changes: []release.Change{{
			Commit: second, Author: "Ada <ada@example.com>", Reviewers: []string{"Grace <grace@example.com>"},
			Subject: "greet the world", Added: 1, Removed: 1,
		}},
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
	if res.Build.State != Published || res.Build.ReleaseID != m.ID || res.Build.Digest != m.Artifact.Digest {
		t.Errorf("build = %+v", res.Build)
	}
	if diff := cmp.Diff([]State{Running, Published}, server.states()); diff != "" {
		t.Errorf("reported states (-want +got):\n%s", diff)
	}
	checkProvenance(t, server)
	checkShipped(t, server.artifact, m.Artifact, "hello.sh", 0o755)
	log := readLog(t, b, res.Build.ID)
	if !strings.Contains(log, "built "+second+" at 1700000000\n") {
		t.Errorf("log lacks the command's output:\n%s", log)
	}
	if got := server.log.String(); got != log {
		t.Errorf("the log sent differs from the log kept:\n%s\n---\n%s", got, log)
	}
	if left, err := os.ReadDir(filepath.Join(b.Work, repoKey(repo.dir))); err != nil || len(left) != 0 {
		t.Errorf("work folder after the build: %v, %v", left, err)
	}
}

func checkProvenance(t *testing.T, server *fakeServer) {
	t.Helper()
	payload, ok := bytes.CutPrefix(server.envelopes[0], []byte("signed:"))
	if !ok {
		t.Fatal("the envelope was not signed")
	}
	st, err := release.ParseStatement(payload)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := server.manifests[0].Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Check(server.manifests[0], manifest); err != nil {
		t.Error(err)
	}
}

func checkShipped(t *testing.T, file []byte, a release.Artifact, name string, mode uint32) {
	t.Helper()
	idx, err := artifact.ReadIndex(bytes.NewReader(file), a)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(idx.Files, func(f release.File) bool { return f.Path == name })
	if i < 0 || idx.Files[i].Mode != mode {
		t.Errorf("shipped %+v, want %s with mode %o", idx.Files, name, mode)
	}
}

func TestSameCommitGivesSameDigest(t *testing.T) {
	repo := newRepo(t)
	// The path of the work folder, the date and the umask are what usually differ.
	repo.write(RecipeFile, recipe("mkdir out && pwd > out/pwd && echo $SOURCE_DATE_EPOCH > out/date && env | sort > out/env && cp -R . ../tmp/copy && mv ../tmp/copy out/src"))
	repo.write("a/b/c.txt", "content\n")
	commit := repo.commit("start")
	b, server := newBuilder(t)
	var ids []string
	for range 2 {
		res, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: commit, Ref: "refs/heads/main"})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, res.Build.ReleaseID)
		if want := len(ids) == 2; res.Already != want {
			t.Errorf("build %d: already = %v", len(ids), res.Already)
		}
	}
	if ids[0] != ids[1] || len(server.manifests) != 1 {
		t.Errorf("two builds of one commit made releases %v", ids)
	}
}

func TestShipsFolderWithoutCommand(t *testing.T) {
	repo := newRepo(t)
	repo.write(RecipeFile, "service: docs\nbuild:\n  output: site\n")
	repo.write("site/index.html", "<h1>hi</h1>")
	commit := repo.commit("start")
	b, server := newBuilder(t)
	if _, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: commit}); err != nil {
		t.Fatal(err)
	}
	checkShipped(t, server.artifact, server.manifests[0].Artifact, "index.html", 0o644)
}

// TestBadBuilds runs commands that misbehave. Each must end as a failed build with one clear error, and nothing
// uploaded or published.
func TestBadBuilds(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	for _, tt := range []struct {
		name    string
		recipe  string
		wantErr error
		want    string
	}{
		{"fails", recipe("echo compiling\necho 'main.go:3: syntax error' >&2\nexit 7"), nil, "exit status 7; its last line: main.go:3: syntax error"},
		{"hangs", recipe("sleep 600", "timeout: 300ms"), ErrTimeout, "build.timeout is 300ms"},
		{"hangs in the background", recipe("trap '' TERM HUP INT; (trap '' TERM; sleep 600) & wait", "timeout: 300ms"), ErrTimeout, "out of time"},
		{"fills the disk", recipe("i=0; while [ $i -lt 600 ]; do head -c 1000000 /dev/zero > f$i; i=$((i+1)); done; sleep 600", "max_output: 5000000"), ErrTooLarge, "build.max_output is 5000000"},
		{"one huge file", recipe("exec head -c 50000000 /dev/zero > huge", "max_output: 5000000"), ErrTooLarge, "build.max_output"},
		{"ships too much", "service: web\nbuild:\n  output: big\n  max_output: 1000\n", ErrTooLarge, "larger than build.max_output"},
		{"no output", recipe("true"), ErrEmptyOutput, `"out" does not exist`},
		{"empty output", recipe("mkdir out"), ErrEmptyOutput, `"out" is empty`},
		{"output is a file", recipe("echo x > out"), nil, "is not a folder"},
		{"output leads outside", recipe("ln -s /etc out"), nil, "is not a folder in the checkout"},
		{"escaping link", recipe("mkdir out && ln -s ../../../etc/passwd out/link"), artifact.ErrNotPackable, "link"},
		{"absolute link", recipe("mkdir out && ln -s /etc/passwd out/link"), artifact.ErrNotPackable, "link"},
		{"pipe", recipe("mkdir out && mkfifo out/pipe"), artifact.ErrNotPackable, "pipe"},
		{"killed", recipe("kill -9 $$"), nil, "signal \"killed\""},
		{"writes outside", recipe("echo x > " + outside + " || exit 3"), nil, "exit status 3"},
		{"floods", recipe("exec yes 'a line that is as long as a line of a log is, and it comes again and again'"), ErrLogFull, "the limit is 1048576 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "writes outside" && landlockMissing() {
				t.Skip("this kernel can't confine a build")
			}
			repo := newRepo(t)
			repo.write(RecipeFile, tt.recipe)
			repo.write("big/file", strings.Repeat("x", 2000))
			commit := repo.commit("start")
			b, server := newBuilder(t)
			b.maxLog = 1 << 20
			res, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: commit})
			if err == nil || !strings.Contains(err.Error(), tt.want) || (tt.wantErr != nil && !errors.Is(err, tt.wantErr)) {
				t.Errorf("error = %v, want %q (%v)", err, tt.want, tt.wantErr)
			}
			checkFailed(t, b, server, res)
			if _, err := os.Stat(outside); err == nil {
				t.Error("the build wrote outside its folder")
			}
		})
	}
}

func landlockMissing() bool {
	_, err := landlockForTest()
	return err != nil
}

// checkFailed checks that a failed build is on record with its log, and that nothing of it is anywhere else.
func checkFailed(t *testing.T, b *Builder, server *fakeServer, res Result) {
	t.Helper()
	if res.Build.State != Failed || res.Build.Error == "" || res.Build.FinishedAt.IsZero() {
		t.Errorf("build = %+v", res.Build)
	}
	if last := server.reports[len(server.reports)-1]; last.State != Failed || last.Error != res.Build.Error {
		t.Errorf("reported %+v", last)
	}
	if server.artifact != nil || server.manifests != nil {
		t.Error("something of a failed build was published")
	}
	if log := readLog(t, b, res.Build.ID); !strings.Contains(log, "murmur: failed: ") || len(log) > 1<<20+10000 {
		t.Errorf("log of %d bytes does not end with the reason", len(log))
	}
	dirs, err := filepath.Glob(filepath.Join(b.Work, "*", "*"))
	if err != nil || len(dirs) > 0 {
		t.Errorf("left in the work folder: %v, %v", dirs, err)
	}
}

func TestBadCommits(t *testing.T) {
	valid := "service: web\n"
	for _, tt := range []struct {
		name  string
		setup func(r *testRepo)
		want  error
		text  string
	}{
		{"no recipe", func(r *testRepo) { r.write("a", "b") }, ErrNoRecipe, "add one at the root"},
		{"bad recipe", func(r *testRepo) { r.write(RecipeFile, "servise: web\n") }, nil, "murmur.yaml:1:1: unknown key `servise` (did you mean `service`?)"},
		{"recipe is a link", func(r *testRepo) {
			r.write("x.yaml", valid)
			if err := os.Symlink("x.yaml", filepath.Join(r.dir, RecipeFile)); err != nil {
				r.tb.Fatal(err)
			}
		}, nil, "must be a plain file"},
		{"git lfs", func(r *testRepo) {
			r.write(RecipeFile, valid)
			r.write("logo.png", string(lfsPointer)+"oid sha256:"+strings.Repeat("0", 64)+"\nsize 12345\n")
		}, ErrUnsupported, "logo.png: files of Git LFS are not supported"},
		{"submodule", func(r *testRepo) {
			r.write(RecipeFile, valid)
			r.git("update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",vendor/lib")
		}, ErrUnsupported, "vendor/lib: git submodules are not supported"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			repo := newRepo(t)
			tt.setup(repo)
			if tt.name != "submodule" {
				repo.git("add", "-A")
			} else {
				repo.git("add", RecipeFile)
			}
			repo.git("commit", "-q", "-m", "start")
			b, server := newBuilder(t)
			res, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: repo.git("rev-parse", "HEAD")})
			if err == nil || !strings.Contains(err.Error(), tt.text) || (tt.want != nil && !errors.Is(err, tt.want)) {
				t.Errorf("error = %v, want %q (%v)", err, tt.text, tt.want)
			}
			checkFailed(t, b, server, res)
		})
	}
}

func TestUnknownCommitAndRepository(t *testing.T) {
	repo := newRepo(t)
	repo.commit("start")
	for _, req := range []Request{
		{Repo: repo.dir, Commit: strings.Repeat("0", 40)},
		{Repo: repo.dir, Commit: "main"},
		{Repo: t.TempDir(), Commit: strings.Repeat("0", 40)},
	} {
		b, server := newBuilder(t)
		res, err := b.Build(t.Context(), req)
		if err == nil {
			t.Errorf("Build(%+v) succeeded", req)
		}
		checkFailed(t, b, server, res)
	}
}

// TestBackgroundProcessesEnd leaves a daemon behind: it must be ended with the build, and the log says so.
func TestBackgroundProcessesEnd(t *testing.T) {
	repo := newRepo(t)
	repo.write(RecipeFile, recipe("mkdir out && setsid sh -c 'echo $$ > out/pid; exec sleep 600' & while ! [ -s out/pid ]; do :; done"))
	commit := repo.commit("start")
	b, server := newBuilder(t)
	res, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: commit})
	if err != nil {
		t.Fatal(err)
	}
	if log := readLog(t, b, res.Build.ID); !strings.Contains(log, "ended 1 processes the build left running") {
		t.Errorf("log:\n%s", log)
	}
	if len(server.manifests) != 1 {
		t.Error("not published")
	}
}

func TestCancel(t *testing.T) {
	repo := newRepo(t)
	repo.write(RecipeFile, recipe("echo started; sleep 600"))
	commit := repo.commit("start")
	t.Run("by the control plane", func(t *testing.T) {
		b, server := newBuilder(t)
		server.cancel = true
		res, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: commit})
		if !errors.Is(err, ErrCancelled) || res.Build.State != Cancelled {
			t.Errorf("build = %+v, error = %v", res.Build, err)
		}
	})
	t.Run("by the caller", func(t *testing.T) {
		b, _ := newBuilder(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		b.Echo = writerFunc(func(p []byte) {
			if bytes.Contains(p, []byte("started\n")) {
				cancel(ErrCancelled)
			}
		})
		res, err := b.Build(ctx, Request{Repo: repo.dir, Commit: commit})
		if !errors.Is(err, ErrCancelled) || res.Build.State != Cancelled {
			t.Errorf("build = %+v, error = %v", res.Build, err)
		}
	})
	t.Run("builder stops", func(t *testing.T) {
		b, server := newBuilder(t)
		ctx, cancel := context.WithCancel(t.Context())
		b.Echo = writerFunc(func(p []byte) {
			if bytes.Contains(p, []byte("started\n")) {
				cancel()
			}
		})
		res, err := b.Build(ctx, Request{Repo: repo.dir, Commit: commit})
		if !errors.Is(err, context.Canceled) || res.Build.State != Running || slices.Contains(server.states(), Cancelled) {
			t.Errorf("build = %+v, error = %v, reported %v", res.Build, err, server.states())
		}
	})
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

func TestPublishWaitsForControlPlane(t *testing.T) {
	repo := newRepo(t)
	repo.write(RecipeFile, "service: web\n")
	commit := repo.commit("start")
	b, server := newBuilder(t)
	server.unreached = 1
	if _, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: commit}); err != nil {
		t.Fatal(err)
	}
	if len(server.manifests) != 1 {
		t.Error("not published after the control plane came back")
	}
	server.unreached, b.PublishWait = 1000, time.Millisecond
	res, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: commit})
	if !errors.Is(err, ErrUnreachable) || res.Build.State != Running {
		t.Errorf("build = %+v, error = %v; want it left for another try", res.Build, err)
	}
}

func TestRefusedReleaseIsAFailedBuild(t *testing.T) {
	repo := newRepo(t)
	repo.write(RecipeFile, "service: web\n")
	b, server := newBuilder(t)
	server.refuse = errors.New("key key-1 may not publish web")
	res, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: repo.commit("start")})
	if !errors.Is(err, server.refuse) || res.Build.State != Failed || !strings.Contains(res.Build.Error, "may not publish") {
		t.Errorf("build = %+v, error = %v", res.Build, err)
	}
}

func TestEnvironmentIsClean(t *testing.T) {
	t.Setenv("LEAKED_SECRET", "s3cret")
	t.Setenv("MURMUR_TOKEN", "s3cret")
	t.Setenv("PROXY_FOR_BUILDS", "http://proxy")
	inherited := openWithoutCloseOnExec(t)
	repo := newRepo(t)
	repo.write(RecipeFile, recipe("mkdir out; env > out/env; cat out/env; ls -l /proc/self/fd; [ -t 0 ] && echo terminal; cat; umask",
		"pass: [PROXY_FOR_BUILDS, MURMUR_TOKEN, NOT_SET]", "env: {PORT: 8080}"))
	commit := repo.commit("start")
	b, _ := newBuilder(t)
	b.Env["FROM_OPERATOR"] = "yes"
	res, err := b.Build(t.Context(), Request{Repo: repo.dir, Commit: commit, Ref: "refs/heads/main"})
	if err != nil {
		t.Fatal(err)
	}
	log := readLog(t, b, res.Build.ID)
	work := filepath.Join(realPath(t, b.Work), repoKey(repo.dir))
	for _, want := range []string{
		"PROXY_FOR_BUILDS=http://proxy", "PORT=8080", "FROM_OPERATOR=yes", "HOME=" + work + "/home", "TMPDIR=" + work + "/tmp",
		"MURMUR_REF=refs/heads/main", "MURMUR_SERVICE=web", "SOURCE_DATE_EPOCH=1700000000", "0022", "LANG=C.UTF-8",
	} {
		if !strings.Contains(log, want+"\n") && !strings.Contains(log, want+" ") {
			t.Errorf("log lacks %q", want)
		}
	}
	for _, bad := range []string{"s3cret", sandboxEnv, "terminal", filepath.Base(inherited.Name())} {
		if strings.Contains(log, bad) {
			t.Errorf("the build could see %q", bad)
		}
	}
	if t.Failed() {
		t.Log(log)
	}
}

// openWithoutCloseOnExec leaves a file open the way a careless parent would.
func openWithoutCloseOnExec(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "inherited-file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func realPath(t *testing.T, p string) string {
	t.Helper()
	r, err := filepath.EvalSymlinks(p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRecordSurvivesJSON(t *testing.T) {
	want := Build{ID: NewID(), Service: "web", Repo: "r", Commit: strings.Repeat("a", 40), State: Failed, Error: "x", QueuedAt: time.Unix(1, 0).UTC()}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Build
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(fmt.Sprint("(-want +got):\n", diff))
	}
}
