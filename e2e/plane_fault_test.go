package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

// noise is n bytes that do not compress, the same for the same seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// TestControlPlaneKilledInEveryPhase kills the only control plane with SIGKILL while it stages, activates and
// rolls back. Started again on the same folder it goes on, and no host does anything twice.
func TestControlPlaneKilledInEveryPhase(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, "--down-mbit", "48")
	v1 := f.deploy(t, "v1")
	again := func() {
		f.kill(t)
		f.start(t)
	}

	v2 := f.publish(t, "v2", map[string][]byte{"padding.bin": noise(2, 12<<20)})
	id := f.begin(t, v2)
	f.until(t, id, "staging on some host", func(r *pb.Rollout) bool { return r.Phase == "staging" && r.Swarm.GetBytesDone() > 1<<20 })
	again()
	f.until(t, id, "complete after a kill while staging", phase("complete"))
	f.allSay(t, "v2")
	f.settled(t, v2, 1)

	v3 := f.publish(t, "v3", nil)
	id = f.begin(t, v3)
	f.until(t, id, "activating some and not yet all", func(r *pb.Rollout) bool {
		return r.Phase == "activating" && r.Step == 1 && r.Counts.Active >= 1 && r.Counts.Active < r.Counts.Total
	})
	again()
	f.until(t, id, "complete after a kill while activating", phase("complete"))
	f.allSay(t, "v3")
	f.settled(t, v3, 1)

	v4 := f.publish(t, "v4", nil)
	id = f.begin(t, v4)
	f.until(t, id, "active on two hosts", func(r *pb.Rollout) bool { return r.Counts.Active >= 2 })
	f.murmur(t, "rollout", "rollback", "hello", "--reason", t.Name())
	f.until(t, id, "rolling back", phase("rolling_back"))
	again()
	f.until(t, id, "rolled back after a kill while rolling back", phase("rolled_back"))
	f.allSay(t, "v3")
	f.settled(t, v1, 1)
	f.settled(t, v2, 1)
	for _, h := range f.hosts {
		text := h.proc.text(t)
		there, back := len(logged(text, "release settled", v4, "outcome=healthy")), len(logged(text, "release settled", v3, "outcome=healthy"))
		if there > 1 || back < 1+there || back > 2 {
			t.Errorf("%s settled on v4 %d times and on v3 %d times", h.name, there, back)
		}
	}
	f.audit(t)
	started := logged(f.murmur(t, "audit", "list", "--limit", "1000"), "rollout.start")
	if len(started) != 4 {
		t.Errorf("4 rollouts were started; on record are %s", lines(started))
	}
}

// TestHostsWithoutAControlPlane takes the whole control plane away: services answer, status and rollback work on
// the host, and when the control plane is back the local rollback holds and is reported.
func TestHostsWithoutAControlPlane(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	v1, v2 := f.deploy(t, "v1"), f.deploy(t, "v2")
	f.kill(t)
	f.allSay(t, "v2")

	h := f.hosts[0]
	status := func() string { return run(t, nil, "murmur-agent", "status", "--root", h.root) }
	eventually(t, "the agent says that it is not attached", func() (bool, string) {
		s := status()
		return strings.Contains(s, "not attached to a seeder") && strings.Contains(s, v2), s
	})
	said := run(t, nil, "murmur-agent", "rollback", "hello", "--root", h.root, "--reason", "on call")
	if !strings.Contains(said, "back and healthy") {
		t.Errorf("rollback said %q", said)
	}
	h.says(t, "v1")
	f.hosts[1].says(t, "v2")

	// The agent dies too: the services go on, status reads the disk, and a rollback works with nothing running.
	f.hosts[1].proc.end(t, syscall.SIGKILL)
	f.hosts[1].says(t, "v2")
	if s := run(t, nil, "murmur-agent", "status", "--root", f.hosts[1].root); !strings.Contains(s, "no agent runs") || !strings.Contains(s, v2) {
		t.Errorf("status without an agent: %s", s)
	}
	run(t, nil, "murmur-agent", "rollback", "hello", "--root", f.hosts[1].root)
	f.hosts[1].says(t, "v1")
	if s := run(t, nil, "murmur-agent", "status", "--root", f.hosts[1].root); !strings.Contains(s, v1) {
		t.Errorf("status after a rollback without an agent: %s", s)
	}
	f.run(t, f.hosts[1])
	f.hosts[1].says(t, "v1")

	f.start(t)
	eventually(t, "the control plane knows what the hosts decided", func() (bool, string) {
		s := f.murmur(t, "host", "list") + f.murmur(t, "host", "show", "h1") + f.murmur(t, "host", "show", "h2")
		return len(logged(s, "active "+v1)) == 2 && len(logged(s, "held on "+v1+" by a local rollback")) == 2, s
	})
	f.allSay(t, "v1")
	run(t, nil, "murmur-agent", "resume", "hello", "--root", h.root)
	h.says(t, "v2")
	f.hosts[1].says(t, "v1")
	f.audit(t)
}

// TestFirstSeedGoneWhileHostsFetch kills the control plane, and one agent, in the middle of a 30 MB distribution.
// With both back every host has the release, and no verified piece crossed the net again.
func TestFirstSeedGoneWhileHostsFetch(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, "--down-mbit", "64", "--up-mbit", "64")
	const size = 30 << 20
	id := f.begin(t, f.publish(t, "v1", map[string][]byte{"padding.bin": noise(1, size)}))
	f.until(t, id, "fetched by a third", func(r *pb.Rollout) bool { return r.Phase == "staging" && r.Swarm.GetBytesDone() > size })
	f.kill(t)
	victim := f.hosts[2]
	victim.proc.end(t, syscall.SIGKILL)
	held := allocated(t, filepath.Join(victim.root, ".murmur"))
	f.run(t, victim)
	f.start(t)
	r := f.until(t, id, "complete", phase("complete"))
	if r.Counts.Staged != 3 {
		t.Errorf("%d of 3 hosts staged", r.Counts.Staged)
	}
	f.allSay(t, "v1")
	for _, h := range f.hosts {
		staged := logged(h.proc.text(t), "release staged")
		if len(staged) != 1 {
			t.Errorf("%s: staged %s", h.name, lines(staged))
			continue
		}
		total := number(t, staged[0], "bytes")
		fetched := number(t, staged[0], "from_peers") + number(t, staged[0], "from_seeder") + number(t, staged[0], "fallback")
		t.Logf("%s fetched %d of %d bytes after its last start", h.name, fetched, total)
		limit := total + total/50
		if h == victim {
			limit -= held / 2
		}
		if fetched > limit {
			t.Errorf("%s fetched %d bytes of %d, at most %d were missing (%d were on its disk)", h.name, fetched, total, limit, held)
		}
	}
}

// number reads key=N of a log line.
func number(t testing.TB, line, key string) int64 {
	t.Helper()
	_, rest, ok := strings.Cut(line, " "+key+"=")
	text, _, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil {
		t.Fatalf("no %s in %q", key, line)
	}
	return n
}

// allocated is how many bytes the files below dir really fill.
func allocated(t testing.TB, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return nil // a socket or a file that is just removed
		}
		n += st.Blocks * 512
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// hostOf returns a host as the control plane knows it.
func (f *fleet) hostOf(t testing.TB, name string) *pb.Host {
	t.Helper()
	resp, err := f.client.Fleet.GetHost(t.Context(), connect.NewRequest(&pb.GetHostRequest{Id: name}))
	if err != nil {
		t.Fatal(fmt.Errorf("host %s: %w", name, err))
	}
	return resp.Msg.Host
}
