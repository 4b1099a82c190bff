package swarm

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"
)

func TestFallbackIsTheLastResortAndCounted(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	src, content := randomFile(t, 6<<20, 20)
	host := start(t, ca.config("host-1"))
	host.patience = 50 * time.Millisecond
	dst := at(t, src)
	var calls, failures atomic.Int64
	dst.Fallback = func(_ context.Context, off, n int64, w io.Writer) error {
		if n > maxFallback {
			t.Errorf("fallback asked for %d bytes, more than %d", n, maxFallback)
		}
		switch calls.Add(1) {
		case 1:
			failures.Add(1)
			return errors.New("seeder busy")
		case 2: // damaged: must be refused
			failures.Add(1)
			_, err := w.Write(make([]byte, n))
			return err
		}
		_, err := w.Write(content[off : off+n])
		return err
	}
	last := fetch(t, host, dst)
	sameContent(t, dst.Path, content)
	if last.Fallback != last.Total || last.FromPeers+last.FromSeeder != 0 {
		t.Errorf("all %d bytes came by fallback, progress says %+v", last.Total, last)
	}
	if failures.Load() != 2 {
		t.Errorf("%d failures seen, want 2", failures.Load())
	}
}

func TestFallbackIsNotAskedWhilePeersDeliver(t *testing.T) {
	ca := newCA(t)
	src, content := randomFile(t, 2<<20, 21)
	seeder := start(t, ca.config("seeder:a"))
	seed(t, seeder, src)
	dst := at(t, src, seeder.peer())
	dst.Fallback = func(context.Context, int64, int64, io.Writer) error {
		t.Error("fallback asked although the seeder is there")
		return errors.New("not needed")
	}
	last := fetch(t, start(t, ca.config("host-1")), dst)
	sameContent(t, dst.Path, content)
	if last.Fallback != 0 {
		t.Errorf("fallback bytes: %d, want 0", last.Fallback)
	}
}

func TestReuseOnlyFetchesWhatIsNotOnDisk(t *testing.T) {
	ca := newCA(t)
	src, content := randomFile(t, 4<<20, 22)
	seeder := start(t, ca.config("seeder:a"))
	seed(t, seeder, src)
	dst := at(t, src, seeder.peer())
	const known = 3<<20 + 1000
	dst.Reuse = func(_ context.Context, w io.WriterAt) ([]Range, error) {
		if _, err := w.WriteAt(make([]byte, 10), int64(len(content))-5); err == nil {
			t.Error("a write past the end was accepted")
		}
		if _, err := w.WriteAt(content[:known], 0); err != nil {
			return nil, err
		}
		junk := make([]byte, 128<<10) // claimed, but wrong: hashing finds out
		if _, err := w.WriteAt(junk, int64(len(content)-len(junk))); err != nil {
			return nil, err
		}
		return []Range{{0, 1 << 20}, {1 << 20, known - 1<<20}, {int64(len(content) - len(junk)), int64(len(junk))}, {-5, 3}, {1 << 40, 1}}, nil
	}
	last := fetch(t, start(t, ca.config("host-1")), dst)
	sameContent(t, dst.Path, content)
	if last.FromDisk != 3<<20 {
		t.Errorf("%d bytes from disk, want the %d of whole pieces", last.FromDisk, 3<<20)
	}
	if got := last.FromSeeder; got < 1<<20 || got > 1<<20+256<<10 {
		t.Errorf("%d bytes from the seeder, want the missing %d", got, 1<<20)
	}
}

func TestPaceWaitsAsLongAsTheRateExplains(t *testing.T) {
	now := time.Unix(1000, 0)
	p := newPace(now, maxPatience)
	p.observe(now, 0, 0, 1<<20, 4)
	now = now.Add(maxPatience - time.Second)
	if p.shouldReconnect(now) {
		t.Error("reconnects before the longest patience, with nothing measured")
	}
	// 1 MiB pieces over 4 connections at 100 KB/s in all: the first piece may take 80 s, we wait at most a minute.
	p.observe(now, 0, 900_000, 1<<20, 4)
	now = now.Add(40 * time.Second)
	if p.shouldReconnect(now) {
		t.Error("reconnects although blocks arrive at a rate that explains the wait")
	}
	now = now.Add(30 * time.Second)
	if !p.shouldReconnect(now) {
		t.Error("never reconnects")
	}
	if p.shouldReconnect(now.Add(time.Second)) {
		t.Error("reconnects twice for one stall")
	}
	// Quick pieces make it impatient again.
	p = newPace(now, maxPatience)
	for i := range int64(20) {
		p.observe(now, i<<20, i<<20, 1<<20, 4)
		now = now.Add(10 * time.Millisecond)
	}
	if got := p.limit(); got != minPatience {
		t.Errorf("limit after quick pieces: %v, want %v", got, minPatience)
	}
	now = now.Add(2*minPatience + time.Second)
	if !p.shouldFallBack(now) {
		t.Error("no last resort after twice the limit")
	}
	p.fellBack(now, 0, errors.New("busy"))
	if p.shouldFallBack(now.Add(500 * time.Millisecond)) {
		t.Error("no pause after a failed last resort")
	}
	if !p.shouldFallBack(now.Add(time.Second)) {
		t.Error("gives up after a failed last resort")
	}
}
