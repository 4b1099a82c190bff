package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestAgentKilledAgainAndAgain kills one agent ten times at moments drawn from a fixed seed, all through an
// upgrade. Whatever its service answers is the old or the new release, and in the end it is the new one.
func TestAgentKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, "--down-mbit", "160")
	f.deploy(t, "v1")
	h := f.hosts[0]
	v2 := f.publish(t, "v2", map[string][]byte{"padding.bin": noise(2, 12<<20)})
	stop := make(chan struct{})
	heard := map[string]int{}
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			body, err := h.ask()
			if err == nil {
				body, _, _ = strings.Cut(body, ",")
				heard[body]++
			}
		}
	})
	id := f.begin(t, v2)
	moments := rand.New(rand.NewPCG(2010, 2026))
	for range 10 {
		time.Sleep(time.Duration(50+moments.IntN(700)) * time.Millisecond) // the moment is the input, nothing waits on it
		h.proc.end(t, syscall.SIGKILL)
		f.run(t, h)
	}
	f.until(t, id, "complete", phase("complete"))
	h.says(t, "v2")
	close(stop)
	asking.Wait()
	for body := range heard {
		if body != "hello from v1" && body != "hello from v2" {
			t.Errorf("the service answered %q", body)
		}
	}
	if heard["hello from v1"] == 0 || heard["hello from v2"] == 0 {
		t.Errorf("heard %v, want both releases", heard)
	}
	if at, err := os.Readlink(filepath.Join(h.root, "hello", "current")); err != nil || filepath.Base(at) != v2 {
		t.Errorf("current is %q, %v, want %s", at, err, v2)
	}
	if running := f.services(); len(running) != 1 {
		t.Errorf("%d services run, want 1: %v", len(running), running)
	}
	f.audit(t)
}

// smallDisk adds a host to a fleet whose folder is a file system of the given size.
func (f *fleet) smallDisk(t testing.TB, size string, agent ...string) *host {
	t.Helper()
	root := filepath.Join(f.dir, "small")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a small disk needs the right to mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	h := f.join(t, "small", root)
	h.configure(t, "min_free_mib: 4\n")
	h.args = append(h.args, agent...)
	f.run(t, h)
	// The agents must be gone before the disk is: this cleanup runs before the one above.
	t.Cleanup(func() { f.stop(t); f.hosts = nil })
	return h
}

// oneStep is the recipe without a canary: a first step of only the small host would rightly end the rollout
// before it touched anything.
func oneStep(stageDeadline string) []byte {
	return []byte(strings.NewReplacer("stage_deadline: 60s", "stage_deadline: "+stageDeadline, "{hosts: 1}, ", "").Replace(recipe))
}

// whole expects that the only releases on a host are these and that current is the first of them.
func (h *host) whole(t testing.TB, releases ...string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(h.root, "hello", "releases"))
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	if err != nil || !slices.Equal(names, releases) {
		t.Errorf("releases on %s: %v, %v; want %v", h.name, names, err, releases)
	}
	if at, err := os.Readlink(filepath.Join(h.root, "hello", "current")); err != nil || filepath.Base(at) != releases[0] {
		t.Errorf("current on %s is %q, %v", h.name, at, err)
	}
}

// TestDiskFull gives one host a disk too small for the next release. It is refused early with a reason, nothing
// is half-installed, and every other host gets the release.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	small := f.smallDisk(t, "40m")
	v1 := f.deploy(t, "v1")
	v2 := f.publish(t, "v2", map[string][]byte{"padding.bin": noise(2, 40<<20), "murmur.yaml": oneStep("3s")})
	r := f.until(t, f.begin(t, v2), "complete", phase("complete"))
	f.hosts[0].says(t, "v2")
	small.says(t, "v1")
	if r.Counts.Active != 1 || r.Counts.Staged != 1 {
		t.Errorf("%v, want 1 of 2 staged and active", r.Counts)
	}
	for _, where := range []string{f.murmur(t, "rollout", "show", "hello"), run(t, nil, "murmur-agent", "status", "--root", small.root)} {
		if got := logged(where, "not enough disk space", "MiB are free"); len(got) == 0 {
			t.Errorf("nothing says that the disk is full:\n%s", where)
		}
	}
	small.whole(t, v1)
	if n := allocated(t, small.root); n > 24<<20 {
		t.Errorf("%d bytes are left on the small disk after a refusal", n)
	}
	f.audit(t)
}

// TestDiskFillsUpWhileFetching fills a host's disk when the release is half there. The host says so and serves
// what it served; the others go on; when there is room again the host takes part by itself.
func TestDiskFillsUpWhileFetching(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	small := f.smallDisk(t, "120m", "--down-mbit", "48")
	v1 := f.deploy(t, "v1")
	before := allocated(t, small.root)
	v2 := f.publish(t, "v2", map[string][]byte{"padding.bin": noise(2, 24<<20), "murmur.yaml": oneStep("9s")})
	id := f.begin(t, v2)
	eventually(t, "the small host has a part of the release", func() (bool, string) {
		n := allocated(t, small.root) - before
		return n > 4<<20, fmt.Sprint(n)
	})
	filler := filepath.Join(small.root, "filler")
	if err := os.WriteFile(filler, make([]byte, 128<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk did not fill up: %v", err)
	}
	r := f.until(t, id, "complete", phase("complete"))
	f.hosts[0].says(t, "v2")
	small.says(t, "v1")
	small.whole(t, v1)
	if r.Counts.Active != 1 {
		t.Errorf("%v, want 1 of 2 active", r.Counts)
	}
	if said := f.murmur(t, "rollout", "show", "hello"); len(logged(said, "small", "space")) == 0 {
		t.Errorf("nothing says that the disk is full:\n%s", said)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	small.says(t, "v2")
	f.audit(t)
}

// TestCopiedIdentity runs a second agent with a copy of a host's key. The newer session takes the older one's
// place; the fleet never sees two hosts, nor one with parts of both. A removed host is told to join again.
func TestCopiedIdentity(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.deploy(t, "v1")
	real := f.hosts[0]
	twin := &host{name: "twin", root: filepath.Join(f.dir, "twin"), url: "http://" + freePort(t) + "/"}
	if err := os.CopyFS(filepath.Join(twin.root, ".murmur", "identity"), os.DirFS(filepath.Join(real.root, ".murmur", "identity"))); err != nil {
		t.Fatal(err)
	}
	keysMode(t, filepath.Join(twin.root, ".murmur", "identity"))
	address := strings.TrimSuffix(strings.TrimPrefix(twin.url, "http://"), "/")
	twin.args = []string{"murmur-agent", "run", "--root", twin.root, "--name", "twin", "--swarm-listen", "127.0.0.1:0", "--listen", "hello/http=" + address}
	f.run(t, twin)
	eventually(t, "one of the two was told that it was replaced", func() (bool, string) {
		text := real.proc.text(t) + twin.proc.text(t)
		return len(logged(text, "session ended", "attached again")) > 0, text
	})
	if hosts := logged(f.murmur(t, "host", "list"), " dev "); len(hosts) != 2 {
		t.Errorf("the fleet has %s", lines(hosts))
	}
	twin.proc.end(t, syscall.SIGTERM)
	run(t, nil, "murmur-agent", "status", "--root", twin.root)
	endAll(below(f.services(), twin.root))
	f.hosts = f.hosts[:2]
	eventually(t, "the first agent is attached and is what the fleet sees", func() (bool, string) {
		s := run(t, nil, "murmur-agent", "status", "--root", real.root)
		h := f.hostOf(t, "h1")
		return strings.Contains(s, "attached to "+f.url()) && h.Connected && h.Name == "h1", s + h.String()
	})
	id := f.publish(t, "v2", nil)
	f.until(t, f.begin(t, id), "complete", phase("complete"))
	f.allSay(t, "v2")

	f.murmur(t, "host", "remove", "h1", "--yes")
	eventually(t, "the removed host is told to join again", func() (bool, string) {
		text := real.proc.text(t)
		return len(logged(text, "removed this host", "join it again")) > 0, text
	})
	real.says(t, "v2")
	if _, said, err := try(nil, "murmur-agent", "rollback", "hello", "--root", real.root); err != nil {
		t.Errorf("a removed host cannot go back by itself: %v: %s", err, said)
	}
	f.audit(t)
	real.proc.end(t, syscall.SIGTERM)
	endAll(below(f.services(), real.root)) // nobody drains a host that is not in the fleet
}

// keysMode gives copied key files the mode that the originals have.
func keysMode(t testing.TB, dir string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if err := os.Chmod(filepath.Join(dir, e.Name()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func below(list []process, dir string) (found []process) {
	for _, p := range list {
		if strings.HasPrefix(p.what, dir+"/") {
			found = append(found, p)
		}
	}
	return found
}
