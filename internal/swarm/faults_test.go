package swarm

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// flaky opens files whose writes fail while full is set, and counts bytes written.
type flaky struct {
	full    atomic.Bool
	written atomic.Int64
	after   int64 // bytes written before the disk is full
}

func (d *flaky) open(path string, create bool) (file, error) {
	f, err := osOpen(path, create)
	if err != nil {
		return nil, err
	}
	return &flakyFile{file: f, disk: d}, nil
}

type flakyFile struct {
	file
	disk *flaky
}

func (f *flakyFile) WriteAt(b []byte, off int64) (int, error) {
	if f.disk.full.Load() && f.disk.written.Load() >= f.disk.after {
		return 0, &os.PathError{Op: "write", Path: "artifact.part", Err: syscall.ENOSPC}
	}
	f.disk.written.Add(int64(len(b)))
	return f.file.WriteAt(b, off)
}

// countingDisk counts bytes read.
type countingDisk struct{ read atomic.Int64 }

func (d *countingDisk) open(path string, create bool) (file, error) {
	f, err := osOpen(path, create)
	if err != nil {
		return nil, err
	}
	return &countingFile{f, d}, nil
}

type countingFile struct {
	file
	disk *countingDisk
}

func (f *countingFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.file.ReadAt(b, off)
	f.disk.read.Add(int64(n))
	return n, err
}

func TestDiskFullIsClearAndLosesNothing(t *testing.T) {
	ca := newCA(t)
	src, content := randomFile(t, 4<<20, 2)
	seeder := start(t, ca.config("seeder:a"))
	seed(t, seeder, src)
	disk := &flaky{after: 1 << 20}
	disk.full.Store(true)
	host := startOpen(t, ca.config("host-1"), disk.open)
	dst := at(t, src, seeder.peer())

	err := host.Fetch(t.Context(), dst, nil)
	if !errors.Is(err, ErrStorage) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fetch on a full disk: %v, want ErrStorage and ENOSPC", err)
	}
	disk.full.Store(false)
	last := fetch(t, host, dst)
	sameContent(t, dst.Path, content)
	if last.FromDisk == 0 || last.FromPeers+last.FromSeeder+last.FromDisk > last.Total+1<<20 {
		t.Errorf("after the disk was freed: %+v, want the first half from disk", last)
	}
}

func TestKilledFetchResumesWithoutDownloadingAgain(t *testing.T) {
	t.Parallel()
	for _, flush := range []bool{false, true} {
		ca := newCA(t)
		src, content := randomFile(t, 4<<20, 3)
		seederConf := ca.config("seeder:a")
		seederConf.UpRate = 4 << 20
		seeder := start(t, seederConf)
		seed(t, seeder, src)
		conf := ca.config("host-1")
		dst := at(t, src, seeder.peer())

		first := start(t, conf)
		half := make(chan struct{})
		var once sync.Once
		failed := make(chan error, 1)
		go func() {
			failed <- first.Fetch(t.Context(), dst, func(p Progress) {
				if p.Done >= p.Total/4 {
					once.Do(func() { close(half) })
				}
			})
		}()
		<-half
		if err := first.shutdown(flush); err != nil {
			t.Fatal(err)
		}
		if err := <-failed; !errors.Is(err, ErrClosed) {
			t.Fatalf("fetch of a closed engine: %v, want ErrClosed", err)
		}
		got := fetch(t, start(t, conf), dst)
		sameContent(t, dst.Path, content)
		if got.FromDisk < got.Total/4 {
			t.Errorf("flush %v: %d of %d bytes taken from disk, want at least a quarter", flush, got.FromDisk, got.Total)
		}
		if over := got.FromPeers + got.FromSeeder + got.FromDisk - got.Total; over > got.Total/20 {
			t.Errorf("flush %v: %d bytes were downloaded that were on disk: %+v", flush, over, got)
		}
	}
}

func TestSeederGoneMidway(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	src, content := randomFile(t, 4<<20, 4)
	conf := ca.config("seeder:a")
	conf.UpRate = 6 << 20
	seeder := start(t, conf)
	seed(t, seeder, src)
	a, b := start(t, ca.config("host-a")), start(t, ca.config("host-b"))
	peers := []Peer{seeder.peer(), a.peer(), b.peer()}

	quarter := make(chan struct{}, 2)
	var wg sync.WaitGroup
	for _, h := range []*Engine{a, b} {
		dst := at(t, src, peers...)
		wg.Go(func() {
			var once sync.Once
			err := h.Fetch(t.Context(), dst, func(p Progress) {
				if p.Done > p.Total/4 {
					once.Do(func() { quarter <- struct{}{} })
				}
			})
			if err != nil {
				t.Errorf("%s: %v", h.cfg.Name, err)
				return
			}
			sameContent(t, dst.Path, content)
		})
	}
	<-quarter
	<-quarter
	conf.Listen = seeder.Addr().String()
	if err := seeder.Close(); err != nil {
		t.Fatal(err)
	}
	back := start(t, conf) // at the same address; its record spares it the hashing
	seed(t, back, src)
	wg.Wait()
}

func TestLyingPeerIsQuarantinedByName(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	src, content := randomFile(t, 4<<20, 5)
	conf := ca.config("seeder:a")
	conf.UpRate = 3 << 20 // the liar must get its turn
	seeder := start(t, conf)
	seed(t, seeder, src)

	liar := start(t, ca.config("host-liar"))
	lie := at(t, src)
	if err := os.WriteFile(lie.Path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	seed(t, liar, lie)
	if err := os.WriteFile(lie.Path, bytes.Repeat([]byte("lies"), len(content)/4), 0o644); err != nil {
		t.Fatal(err)
	}

	host := start(t, ca.config("host-1"))
	dst := at(t, src, liar.peer(), seeder.peer())
	fetch(t, host, dst)
	sameContent(t, dst.Path, content)
	waitFor(t, "quarantine of the liar", func() bool {
		st, _ := host.Stats(src.Infohash)
		return slices.Equal(st.Quarantined, []string{"host-liar"})
	})
	if _, ok := host.names.outbound(liar.peer(), time.Now()); ok {
		t.Error("the liar would be dialled again")
	}
	if _, ok := host.names.outbound(liar.peer(), time.Now().Add(quarantine+time.Second)); !ok {
		t.Error("quarantine never ends")
	}
}

func TestSilentPeerAndDeadAddress(t *testing.T) {
	ca := newCA(t)
	src, content := randomFile(t, 2<<20, 6)
	seeder := start(t, ca.config("seeder:a"))
	seed(t, seeder, src)
	silent := listenSilently(t, ca)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	host := start(t, ca.config("host-1"))
	dst := at(t, src, Peer{"host-dead", dead.Addr().String()}, Peer{"host-silent", silent}, seeder.peer())
	fetch(t, host, dst)
	sameContent(t, dst.Path, content)
}

func TestPeerThatPromisesAndNeverAnswers(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	src, content := randomFile(t, 4<<20, 10)
	conf := ca.config("seeder:a")
	conf.UpRate = 4 << 20
	seeder := start(t, conf)
	seed(t, seeder, src)
	host := start(t, ca.config("host-1"))
	hash, _ := parseHash(src.Infohash)
	host.watch.gaps[hash] = gap(time.Millisecond) // as if others had answered: the least patience
	dst := at(t, src, Peer{"host-silent", listenPromising(t, ca)})
	done := make(chan error, 1)
	go func() { done <- host.Fetch(t.Context(), dst, nil) }()
	waitFor(t, "end of the connection that owes answers", func() bool {
		st, _ := host.Stats(src.Infohash)
		return st.Silenced > 0
	})
	host.AddPeers(src.Infohash, []Peer{seeder.peer()})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	sameContent(t, dst.Path, content)
	host.names.mu.Lock()
	defer host.names.mu.Unlock()
	if host.names.shy["host-silent"].times == 0 {
		t.Error("the silence left no mark: the peer would be asked again at once")
	}
}

// listenPromising is a peer that says it has everything, serves everybody, and never answers a request.
func listenPromising(t *testing.T, ca *testCA) string {
	return listenAs(t, ca, "host-silent", func(c net.Conn) {
		var hello [handshakeBytes]byte
		if _, err := io.ReadFull(c, hello[:]); err != nil {
			return
		}
		copy(hello[20:28], []byte{0, 0, 0, 0, 0, 0, 0, 4}) // fast extension only
		copy(hello[48:], "-XX0000-promising000")
		haveAll, unchoke := []byte{0, 0, 0, 1, 14}, []byte{0, 0, 0, 1, 1}
		if _, err := c.Write(slices.Concat(hello[:], haveAll, unchoke)); err == nil {
			io.Copy(io.Discard, c)
		}
	})
}

// listenSilently completes TLS handshakes as host-silent and never says a word.
func listenSilently(t *testing.T, ca *testCA) string {
	return listenAs(t, ca, "host-silent", func(c net.Conn) { io.Copy(io.Discard, c) })
}

// listenAs runs handle for every connection that passes a TLS handshake, under a name, until the end of the test.
func listenAs(t *testing.T, ca *testCA, name string, handle func(net.Conn)) string {
	conf, _ := ca.server(name)()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				s := tls.Server(c, hardenServer(conf))
				if s.HandshakeContext(t.Context()) == nil {
					handle(s)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

func TestStrangersGetNothing(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	src, _ := randomFile(t, 1<<20, 7)
	seeder := start(t, ca.config("seeder:a"))
	seed(t, seeder, src)

	strangers := map[string]func() Config{
		"other CA":  func() Config { return newCA(t).config("host-1") },
		"plaintext": func() Config { c := ca.config("host-1"); c.ServerTLS, c.ClientTLS = nil, nil; return c },
		"trusts, but is signed by nobody": func() Config {
			c := newCA(t).config("host-1")
			other := newCA(t)
			other.pool = ca.pool
			c.ClientTLS = other.client("host-1")
			return c
		},
	}
	for name, conf := range strangers {
		t.Run(name, func(t *testing.T) {
			host := start(t, conf())
			ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
			defer cancel()
			var last Progress
			err := host.Fetch(ctx, at(t, src, seeder.peer()), func(p Progress) { last = p })
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("fetch: %v, want deadline exceeded", err)
			}
			if last.Done != 0 || last.FromSeeder+last.FromPeers != 0 {
				t.Errorf("a stranger got data: %+v", last)
			}
		})
	}
	if st, _ := seeder.Stats(src.Infohash); st.Uploaded != 0 {
		t.Errorf("seeder sent %d bytes to strangers", st.Uploaded)
	}
}

func TestWrongNameIsRefused(t *testing.T) {
	ca := newCA(t)
	src, _ := randomFile(t, 1<<20, 8)
	seeder := start(t, ca.config("seeder:a"))
	seed(t, seeder, src)
	host := start(t, ca.config("host-1"))
	addr, ok := host.names.outbound(Peer{Name: "seeder:b", Addr: seeder.Addr().String()}, time.Now())
	if !ok {
		t.Fatal("address refused")
	}
	conn, err := host.net.Dial(t.Context(), addr.String())
	if err == nil {
		conn.Close()
		t.Fatal("a peer with another name was accepted")
	}
	if !strings.Contains(err.Error(), `is "seeder:a", expected "seeder:b"`) {
		t.Errorf("error %q does not name both", err)
	}
}

func TestAllowedIsAskedWithTheNameInTheCertificate(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	src, content := randomFile(t, 1<<20, 9)
	conf := ca.config("seeder:a")
	conf.Allowed = func(hash [20]byte, peer string) bool { return peer == "host-good" }
	seeder := start(t, conf)
	seed(t, seeder, src)

	bad := start(t, ca.config("host-bad"))
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	if err := bad.Fetch(ctx, at(t, src, seeder.peer()), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("fetch by a host that may not join: %v", err)
	}
	if st, _ := seeder.Stats(src.Infohash); st.Uploaded != 0 {
		t.Errorf("seeder sent %d bytes to a host that may not join", st.Uploaded)
	}
	good := at(t, src, seeder.peer())
	fetch(t, start(t, ca.config("host-good")), good)
	sameContent(t, good.Path, content)
}

// waitFor polls until cond holds; the test's own time limit ends it.
func waitFor(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !cond() {
		select {
		case <-ticker.C:
		case <-tb.Context().Done():
			tb.Fatalf("never saw: %s", what)
		}
	}
}
