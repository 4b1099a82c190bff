package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/murmuration/murmuration/agent/install"
)

// mortalJob is what a mortal agent is to do; it comes in the environment as JSON.
type mortalJob struct {
	Root  string
	Files map[string]string // the swarm's
	Want  string            // end when this release is active
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
	n := 0
	cfg.step = func(point string) {
		n++ // one service, one unit: only staging may run beside it, and it never does here while it activates
		steps <- point
		if n == job.Kill {
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
			ok = h != nil && !h.busy && h.snap.Journal.Active == job.Want && h.snap.Journal.Phase == install.Settled && h.snap.Run.Running
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
