package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/murmuration/murmuration/agent/install"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/release"
)

// mortalJob is what a mortal agent is to do; it comes in the environment as JSON.
type mortalJob struct {
	Root  string
	Files map[string]string // the swarm's
	Want  string            // end when this release is active
	Fail  string            // and this one has failed, if set
	Kill  int               // die at this step; 0 never
}

// mortalAgent acts on the order stored in its folder, with no network, and kills itself by SIGKILL at the step it
// was told. It says how many steps there were when it got through.
func mortalAgent() int {
	var job mortalJob
	if err := json.Unmarshal([]byte(os.Getenv("AGENT_TEST_JOB")), &job); err != nil {
		fmt.Println(err)
		return 1
	}
	s := newFakeSwarm()
	s.files = job.Files
	cfg := testConfig(job.Root, s)
	steps := make(chan string, 1000)
	var n atomic.Int64
	cfg.step = func(point string) {
		steps <- point
		if n.Add(1) == int64(job.Kill) {
			fmt.Println("killed at", point)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	a, err := New(cfg)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	for {
		ok := false
		err := a.ask(ctx, func(l *loop) {
			h := l.units["shop"]
			if h == nil {
				return
			}
			ok = !h.busy && h.snap.Journal.Active == job.Want && h.snap.Journal.Phase == install.Settled && h.snap.Run.Running
			if last := h.snap.Journal.Last; job.Fail != "" && ok {
				ok = last.Release == job.Fail && last.Outcome == install.Failed
			}
		})
		if err != nil {
			fmt.Println("not reached:", err)
			return 1
		}
		if ok {
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("through", len(steps))
	return 0
}

// live runs a mortal agent to its end and returns what it said, and whether it was killed.
func (j mortalJob) live(t *testing.T) (said string, killed bool) {
	t.Helper()
	b, err := json.Marshal(j)
	check(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "AGENT_TEST_ROLE=agent", "GORACE=atexit_sleep_ms=0", "AGENT_TEST_JOB="+string(b))
	out, err := cmd.Output()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	killed = ok && status.Signaled() && status.Signal() == syscall.SIGKILL
	if err != nil && !killed {
		t.Fatalf("mortal agent: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out)), killed
}

// TestKilledAtEveryLine kills an agent by SIGKILL before and after every durable step of staging and installing a
// release over another. Each time, what is left must be the old release or the new one and nothing in between, and
// the next agent must get to the new one, with no network and no help.
func TestKilledAtEveryLine(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	t.Cleanup(func() { killServices(t, root) })
	a, b := shop(t, dir, nil), shop(t, dir, nil)
	files := newFakeSwarm(a, b).files
	want := func(r, other rel, revision int64) {
		t.Helper()
		rt, err := os.OpenRoot(root)
		check(t, err)
		defer rt.Close()
		check(t, rt.MkdirAll(ownDir, 0o700))
		check(t, saveMemory(rt, order(revision, r, other)))
	}
	want(a, rel{id: a.id, ref: a.ref}, 1)
	mortalJob{Root: root, Files: files, Want: a.id}.live(t)
	if got := answers(root); got != a.id {
		t.Fatalf("%q answers at the start, want %s", got, a.id)
	}

	old, next := a, b
	for kill := 1; ; kill++ {
		if kill > 200 {
			t.Fatal("the steps never end")
		}
		// The new release is not on disk, so every round stages it too.
		removeRelease(t, root, next.id)
		want(next, old, int64(kill)+1)
		job := mortalJob{Root: root, Files: files, Want: next.id, Kill: kill}
		said, killed := job.live(t)
		if killed {
			wholeAfter(t, root, said, old, next)
			job.Kill = 0
			job.live(t)
		}
		if got := answers(root); got != next.id {
			t.Fatalf("kill %d (%s): %q answers after recovery, want %s", kill, said, got, next.id)
		}
		if cur := currentOf(t, root); cur != next.id {
			t.Fatalf("kill %d (%s): current is %q after recovery, want %s", kill, said, cur, next.id)
		}
		if !killed {
			if kill < 15 {
				t.Errorf("only %d steps were found: %s", kill-1, said)
			}
			t.Logf("killed at %d steps", kill-1)
			return
		}
		old, next = next, old
	}
}

// TestKilledOnTheWayBack does the same while a release that is not healthy makes the host go back.
func TestKilledOnTheWayBack(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	t.Cleanup(func() { killServices(t, root) })
	good, bad := shop(t, dir, nil), shop(t, dir, func(r *release.Recipe) {
		r.Run.Env["SICK"] = "1"
		r.Health[0].Deadline = release.Duration(20 * time.Millisecond)
	})
	files := newFakeSwarm(good, bad).files
	remember := func(d *murmurv1.Desired) {
		t.Helper()
		rt, err := os.OpenRoot(root)
		check(t, err)
		defer rt.Close()
		check(t, rt.MkdirAll(ownDir, 0o700))
		check(t, saveMemory(rt, d))
	}
	remember(order(1, good))
	mortalJob{Root: root, Files: files, Want: good.id}.live(t)
	for kill := 1; ; kill++ {
		if kill > 200 {
			t.Fatal("the steps never end")
		}
		d := order(int64(kill)+1, bad, good)
		d.Services[0].Retry = uint64(kill) // try it again
		remember(d)
		job := mortalJob{Root: root, Files: files, Want: good.id, Fail: bad.id, Kill: kill}
		said, killed := job.live(t)
		if killed {
			wholeAfter(t, root, said, good, bad)
			job.Kill = 0
			job.live(t)
		}
		if got, cur := answers(root), currentOf(t, root); got != good.id || cur != good.id {
			t.Fatalf("kill %d (%s): %q answers and current is %q after recovery, want %s", kill, said, got, cur, good.id)
		}
		if !killed {
			if kill < 12 {
				t.Errorf("only %d steps were found: %s", kill-1, said)
			}
			t.Logf("killed at %d steps", kill-1)
			return
		}
	}
}

// wholeAfter checks what a killed agent left: one of the two releases, whole.
func wholeAfter(t *testing.T, root, said string, old, next rel) {
	t.Helper()
	cur := currentOf(t, root)
	if cur != old.id && cur != next.id {
		t.Errorf("%s: current is %q", said, cur)
	}
	tree := filepath.Join(root, "shop", "current")
	id, err := os.ReadFile(filepath.Join(tree, "release.txt"))
	if err != nil || string(id) != cur {
		t.Errorf("%s: current holds %q, %v", said, id, err)
	}
	if _, err := os.Stat(filepath.Join(tree, "sub", "same.txt")); err != nil {
		t.Errorf("%s: current is not whole: %v", said, err)
	}
	if got := answers(root); got != old.id && got != next.id {
		t.Errorf("%s: %q answers while no agent runs", said, got)
	}
}

func currentOf(t *testing.T, root string) string {
	t.Helper()
	target, err := os.Readlink(filepath.Join(root, "shop", "current"))
	if err != nil {
		t.Errorf("current: %v", err)
	}
	return strings.TrimPrefix(target, "releases/")
}

func removeRelease(t *testing.T, root, id string) {
	t.Helper()
	for _, p := range []string{"shop/releases/" + id, "shop/manifests/" + id, artifactPath(id)} {
		check(t, os.RemoveAll(filepath.Join(root, p)))
	}
}
