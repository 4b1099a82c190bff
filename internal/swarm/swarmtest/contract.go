package swarmtest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/murmuration/murmuration/internal/swarm"
)

// Swarm is what the contract asks of an engine.
type Swarm interface {
	Addr() net.Addr
	Fetch(ctx context.Context, spec swarm.Spec, progress func(swarm.Progress)) error
	Seed(ctx context.Context, spec swarm.Spec) error
	AddPeers(infohash string, peers []swarm.Peer)
	Drop(infohash string)
	Stats(infohash string) (swarm.Stats, bool)
	Close() error
}

// Run checks the promises of package swarm that consumers build on. open returns a new engine that can reach the others of
// the same subtest; Run closes them.
func Run(t *testing.T, open func(testing.TB) Swarm) {
	engine := func(t *testing.T) Swarm {
		e := open(t)
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		return e
	}
	t.Run("fetch what is seeded", func(t *testing.T) { fetchSeeded(t, engine(t), engine(t)) })
	t.Run("fetch waits for a source", func(t *testing.T) { fetchWaits(t, engine(t)) })
	t.Run("seed refuses another file", func(t *testing.T) { seedRefuses(t, engine(t)) })
	t.Run("infohash must match", func(t *testing.T) { hashMustMatch(t, engine(t)) })
	t.Run("drop forgets", func(t *testing.T) { dropForgets(t, engine(t)) })
	t.Run("closed", func(t *testing.T) { closedRefuses(t, open(t)) })
}

// NewFile writes a file of n random bytes, the same for the same seed, and returns its torrent with Path set to it.
func NewFile(tb testing.TB, n int, seed byte) swarm.Spec {
	tb.Helper()
	content := make([]byte, n)
	if _, err := rand.NewChaCha8([32]byte{seed}).Read(content); err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), "artifact")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		tb.Fatal(err)
	}
	info, hash, err := swarm.MakeInfo(tb.Context(), path, "artifact")
	if err != nil {
		tb.Fatal(err)
	}
	return swarm.Spec{Info: info, Infohash: hash, Path: path}
}

// At returns the same torrent with its file in a new folder.
func At(tb testing.TB, s swarm.Spec) swarm.Spec {
	tb.Helper()
	s.Path = filepath.Join(tb.TempDir(), "fetched")
	return s
}

// SameFile fails the test unless both files exist and are equal.
func SameFile(tb testing.TB, got, want string) {
	tb.Helper()
	g, err := os.ReadFile(got)
	if err != nil {
		tb.Fatal(err)
	}
	w, err := os.ReadFile(want)
	if err != nil {
		tb.Fatal(err)
	}
	if !bytes.Equal(g, w) {
		tb.Fatalf("%s differs from %s", got, want)
	}
}

func fetchSeeded(t *testing.T, seeder, host Swarm) {
	src := NewFile(t, 300_000, 1)
	if err := seeder.Seed(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	dst := At(t, src)
	dst.Peers = []swarm.Peer{{Name: "seeder:a", Addr: seeder.Addr().String()}}
	var last swarm.Progress
	if err := host.Fetch(t.Context(), dst, func(p swarm.Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	SameFile(t, dst.Path, src.Path)
	if last.Done != 300_000 || last.Total != 300_000 {
		t.Errorf("last progress %+v, want all of 300000", last)
	}
	if st, ok := host.Stats(dst.Infohash); !ok || !st.Complete {
		t.Errorf("stats after fetch: %+v, %v", st, ok)
	}
	if err := host.Fetch(t.Context(), dst, nil); err != nil {
		t.Errorf("second fetch: %v", err)
	}
}

func fetchWaits(t *testing.T, host Swarm) {
	dst := At(t, NewFile(t, 100_000, 2))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := host.Fetch(ctx, dst, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("fetch with nobody there: %v, want canceled", err)
	}
	if _, err := os.Stat(dst.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an unfinished fetch left a final file: %v", err)
	}
}

func seedRefuses(t *testing.T, seeder Swarm) {
	src, other := NewFile(t, 100_000, 3), NewFile(t, 100_000, 4)
	src.Path = other.Path
	if err := seeder.Seed(t.Context(), src); !errors.Is(err, swarm.ErrCorrupt) {
		t.Errorf("seed of another file: %v, want ErrCorrupt", err)
	}
	src.Path = filepath.Join(t.TempDir(), "missing")
	if err := seeder.Seed(t.Context(), src); !errors.Is(err, swarm.ErrStorage) {
		t.Errorf("seed of a missing file: %v, want ErrStorage", err)
	}
}

func hashMustMatch(t *testing.T, host Swarm) {
	dst := At(t, NewFile(t, 100_000, 5))
	dst.Infohash = NewFile(t, 100_000, 6).Infohash
	if err := host.Fetch(t.Context(), dst, nil); !errors.Is(err, swarm.ErrBadInfo) {
		t.Errorf("fetch with a foreign infohash: %v, want ErrBadInfo", err)
	}
}

func dropForgets(t *testing.T, seeder Swarm) {
	src := NewFile(t, 100_000, 7)
	if err := seeder.Seed(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	seeder.Drop(src.Infohash)
	if _, ok := seeder.Stats(src.Infohash); ok {
		t.Error("stats of a dropped torrent")
	}
	if _, err := os.Stat(src.Path); err != nil {
		t.Errorf("drop touched the file: %v", err)
	}
}

func closedRefuses(t *testing.T, e Swarm) {
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if err := e.Fetch(t.Context(), At(t, NewFile(t, 100_000, 8)), nil); !errors.Is(err, swarm.ErrClosed) {
		t.Errorf("fetch on a closed engine: %v, want ErrClosed", err)
	}
}
