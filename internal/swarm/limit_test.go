package swarm

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

func TestUpRateHoldsOverAllConnections(t *testing.T) {
	t.Parallel()
	const rate = 4 << 20
	ca := newCA(t)
	src, _ := randomFile(t, 3<<20, 40)
	conf := ca.config("seeder:a")
	conf.UpRate = rate
	seeder := start(t, conf)
	seed(t, seeder, src)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range 3 { // they know only the seeder, so all bytes are its own
		h := start(t, ca.config(fmt.Sprintf("host-%d", i)))
		wg.Go(func() { fetch(t, h, at(t, src, seeder.peer())) })
	}
	wg.Wait()
	st, _ := seeder.Stats(src.Infohash)
	seconds := time.Since(began).Seconds()
	if got, most := float64(st.Uploaded), rate*seconds+float64(seeder.net.up.Burst()); got > most {
		t.Errorf("sent %.0f bytes in %.2f s, the cap allows %.0f", got, seconds, most)
	}
}

func TestDownRateHolds(t *testing.T) {
	t.Parallel()
	const rate = 2 << 20
	ca := newCA(t)
	src, _ := randomFile(t, 2<<20, 41)
	seeder := start(t, ca.config("seeder:a"))
	seed(t, seeder, src)
	conf := ca.config("host-1")
	conf.DownRate = rate
	host := start(t, conf)
	began := time.Now()
	fetch(t, host, at(t, src, seeder.peer()))
	seconds := time.Since(began).Seconds()
	if most := rate*seconds + float64(host.net.down.Burst()) + limitStep; 2<<20 > most {
		t.Errorf("received 2 MiB in %.2f s, the cap allows %.0f", seconds, most)
	}
}

func TestThousandPieces(t *testing.T) {
	ca := newCA(t)
	src, content := randomFile(t, 1000*ownPieceLength, 42)
	if m, _ := ParseInfo(src.Info); m.Pieces != 1000 {
		t.Fatalf("%d pieces, want 1000", m.Pieces)
	}
	seeder, host := start(t, ca.config("seeder:a")), start(t, ca.config("host-1"))
	seed(t, seeder, src)
	dst := at(t, src, seeder.peer())
	began := time.Now()
	fetch(t, host, dst)
	t.Logf("1000 pieces of 64 KiB in %v", time.Since(began).Round(time.Millisecond))
	sameContent(t, dst.Path, content)
}

func TestPlaintextInterop(t *testing.T) {
	ca := newCA(t)
	plain := func(name string) Config {
		c := ca.config(name)
		c.ServerTLS, c.ClientTLS = nil, nil
		return c
	}
	src, content := randomFile(t, 1<<20, 43)
	seeder, host := start(t, plain("seeder:a")), start(t, plain("host-1"))
	seed(t, seeder, src)
	dst := at(t, src, seeder.peer())
	if last := fetch(t, host, dst); last.FromSeeder == 0 {
		t.Errorf("bytes of a named seeder are not counted as such: %+v", last)
	}
	sameContent(t, dst.Path, content)
}

func TestSeedBelievesItsRecordOnlyOfAnUnchangedFile(t *testing.T) {
	ca := newCA(t)
	src, content := randomFile(t, 1<<20, 44)
	conf := ca.config("seeder:a")
	e := start(t, conf)
	seed(t, e, src)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	reads := &countingDisk{}
	again := startOpen(t, conf, reads.open)
	seed(t, again, src)
	if n := reads.read.Load(); n != 0 {
		t.Errorf("%d bytes of a recorded, unchanged file were hashed again", n)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	content[5] ^= 1
	if err := os.WriteFile(src.Path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(src.Path, time.Now(), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := start(t, conf).Seed(t.Context(), src); err == nil {
		t.Error("a changed file was believed on its record")
	}
}
