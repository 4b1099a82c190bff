package darkmode

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/darkmode/darkmodetest"
	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
)

// TestOrderOfTruth goes down the order: server, disk, bootstrap, default.
func TestOrderOfTruth(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "flags")
	bootstrap := darkmodetest.Bootstrap(on("bootstrap"), off("server"))
	cfg := Config{CopyFile: path, Bootstrap: bootstrap}

	c := New(cfg)
	wantBool(t, c, "bootstrap", true)
	wantBool(t, c, "server", false)
	wantDefault(t, c, "nowhere")
	if s := c.Status(); s.Source != FromBootstrap || !s.Stale || s.Flags != 2 {
		t.Errorf("status %+v", s)
	}

	srv := darkmodetest.New(t, on("server"))
	live := fast(srv.URL)
	live.CopyFile, live.Bootstrap = path, bootstrap
	c, _ = start(t, live)
	waitReady(t, c)
	wantBool(t, c, "server", true)
	wantDefault(t, c, "bootstrap") // replaced as a whole
	if s := c.Status(); s.Source != FromServer || s.Stale || s.Revision != 10 || s.AsOf.IsZero() {
		t.Errorf("status %+v", s)
	}
	closeClient(t, c)

	c = New(cfg)
	wantBool(t, c, "server", true)
	s := c.Status()
	if s.Source != FromDisk || !s.Stale || s.Revision != 10 {
		t.Errorf("status %+v", s)
	}
	if age, ok := s.Age(time.Now()); !ok || age < 0 {
		t.Errorf("the disk copy's age is not known: %v, %v", age, ok)
	}
	if c := New(Config{}); c.Bool("server", "u", true) != true || c.Status().Source != FromDefaults {
		t.Error("a client without any state does not give defaults")
	}
}

// TestDamagedCopyIsNotUsed: a copy that is torn, changed, of another version or no state leaves the bootstrap.
func TestDamagedCopyIsNotUsed(t *testing.T) {
	good, err := encodeCopy(snapshot{Revision: 9, Flags: []feature.Flag{on("disk")}})
	if err != nil {
		t.Fatal(err)
	}
	empty, err := encodeCopy(snapshot{})
	if err != nil {
		t.Fatal(err)
	}
	flipped := strings.Replace(string(good), `"dial":10000`, `"dial":10001`, 1)
	for name, data := range map[string]string{
		"torn":         string(good[:len(good)/2]),
		"empty file":   "",
		"header only":  string(good[:strings.Index(string(good), "\n")+1]),
		"changed":      flipped,
		"newer format": strings.Replace(string(good), copyMagic+" 1 ", copyMagic+" 2 ", 1),
		"other file":   "hello\n",
		"no revision":  string(empty),
		"too large":    string(good) + strings.Repeat(" ", 4096),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "flags")
			if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
			c := New(Config{CopyFile: path, Bootstrap: darkmodetest.Bootstrap(on("bootstrap")), MaxBytes: 4096})
			wantBool(t, c, "bootstrap", true)
			wantDefault(t, c, "disk")
			if s := c.Status(); s.LastError == nil || !strings.Contains(s.LastError.Error(), "damaged") || s.Source != FromBootstrap {
				t.Errorf("status %+v", s)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "flags")
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	wantBool(t, New(Config{CopyFile: path}), "disk", true)
}

// TestBadBootstrap: what cannot be read is said and leaves defaults.
func TestBadBootstrap(t *testing.T) {
	for _, data := range []string{`{`, `{}`, `{"revision":1}`, `{"revision":1,"flags":{}}`, `{"error":{"code":"x"}}`, `[]`} {
		c := New(Config{Bootstrap: []byte(data)})
		if s := c.Status(); s.Source != FromDefaults || s.LastError == nil {
			t.Errorf("%s: status %+v", data, s)
		}
	}
}

// TestUnusableConfigStillAnswers: a typo in a URL keeps nobody from starting.
func TestUnusableConfigStillAnswers(t *testing.T) {
	c := New(Config{Servers: []string{"flagd:8443", "://", "ftp://x"}, CopyFile: "/dev/null/no/such", Bootstrap: darkmodetest.Bootstrap(on("f"))})
	c.Start(t.Context())
	defer closeClient(t, c)
	wantBool(t, c, "f", true)
}

// TestStreamLife: reset, deltas, kill with acknowledgement, drop, resume by revision, reset after compaction.
func TestStreamLife(t *testing.T) {
	srv := darkmodetest.New(t, on("a"), off("b"))
	c, w := start(t, fast(srv.URL))
	waitReady(t, c)
	handle := c.BoolFlag("b", false)
	wantBool(t, c, "a", true)

	e := w.revision(t, srv.Put(on("b")))
	if d := cmp.Diff([]string{"b"}, e.Keys); d != "" || !handle.On("u") {
		t.Errorf("keys %s, handle %v", d, handle.On("u"))
	}
	rev := srv.Kill("b", "olga", "INC-7")
	w.revision(t, rev)
	if handle.On("u") {
		t.Error("a killed flag is on")
	}
	select {
	case a := <-srv.Acks:
		if a != (darkmodetest.Ack{Stream: "stream-1", Revision: rev}) {
			t.Errorf("acknowledged %+v", a)
		}
	case <-time.After(deadline):
		t.Fatal("the kill was not acknowledged")
	}

	srv.RefuseStreams(http.StatusServiceUnavailable, "0")
	srv.DropStreams()
	rev = srv.Drop("a")
	srv.RefuseStreams(0, "")
	w.revision(t, rev)
	wantDefault(t, c, "a")

	srv.DropStreams()
	srv.Compact()
	w.revision(t, srv.Put(on("c")))
	wantBool(t, c, "c", true)
	if since := srv.Since(); len(since) < 3 || since[0] != 0 || since[1] < 12 {
		t.Errorf("streams were resumed from %v", since)
	}
}

// TestPrerequisitesAndSegmentsReachHandles: a change elsewhere changes whom it concerns.
func TestPrerequisitesAndSegmentsReachHandles(t *testing.T) {
	needs := darkmodetest.Bool("child", dial.Full, func(f *feature.Flag) {
		f.Prerequisites = []feature.Prerequisite{{Flag: "parent", Variants: []string{"on"}}}
	})
	seg := darkmodetest.Bool("beta", dial.Off, func(f *feature.Flag) {
		f.Rules = []feature.Rule{{Variant: "on", Clauses: []feature.Clause{{Op: feature.OpSegment, Values: raw(`"beta"`)}}}}
	})
	srv := darkmodetest.New(t, on("parent"), needs, seg)
	c, w := start(t, fast(srv.URL))
	waitReady(t, c)
	child, beta := c.BoolFlag("child", false), c.BoolFlag("beta", false)
	if !child.On("u") || beta.On("ann") {
		t.Fatal("wrong from the start")
	}
	e := w.revision(t, srv.Put(off("parent")))
	if d := cmp.Diff([]string{"child", "parent"}, e.Keys); d != "" || child.On("u") {
		t.Errorf("child %v, keys %s", child.On("u"), d)
	}
	w.revision(t, srv.PutSegments(feature.Segment{Key: "beta", Included: []string{"ann"}}))
	if !beta.On("ann") || beta.On("bob") {
		t.Error("the segment did not reach the handle")
	}
}

// TestPollWhereStreamsAreRefused: snapshots keep the state fresh, and the stream is taken up when it is there.
func TestPollWhereStreamsAreRefused(t *testing.T) {
	srv := darkmodetest.New(t, on("a"))
	srv.RefuseStreams(http.StatusServiceUnavailable, "")
	c, w := start(t, fast(srv.URL))
	waitReady(t, c)
	wantBool(t, c, "a", true)
	w.revision(t, srv.Put(off("a")))
	if s := c.Status(); s.Connected || s.Stale {
		t.Errorf("status %+v", s)
	}
	srv.RefuseStreams(0, "")
	w.revision(t, srv.Put(on("a"), on("b")))
	wantBool(t, c, "b", true)
}

// TestServerGoneAndBack: the last state holds, the trouble is told, the next server takes over.
func TestServerGoneAndBack(t *testing.T) {
	srv, other := darkmodetest.New(t, on("a")), darkmodetest.New(t, on("a"))
	srv.SetBroken(true)
	other.SetBroken(true)
	cfg := fast(srv.URL, other.URL)
	cfg.Bootstrap = darkmodetest.Bootstrap(on("shipped"))
	c, w := start(t, cfg)
	w.kind(t, Trouble)
	wantBool(t, c, "shipped", true)
	other.SetBroken(false)
	waitReady(t, c)
	wantBool(t, c, "a", true)
}

// TestStaleIsTold runs on a fake clock: an hour of silence, then the server is back.
func TestStaleIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		c := New(Config{Servers: []string{"http://flagd.test"}, HTTPClient: &http.Client{Transport: s}, ReportInterval: -1})
		var kinds []EventKind
		var mu sync.Mutex
		c.Subscribe(func(e Event) { mu.Lock(); defer mu.Unlock(); kinds = append(kinds, e.Kind) })
		c.Start(t.Context())
		c.replace(snapshot{Revision: 1}, FromServer)
		time.Sleep(59 * time.Second)
		stale := c.Status().Stale
		time.Sleep(2 * time.Hour)
		c.confirmed()
		closeClient(t, c)
		count := map[EventKind]int{}
		for _, k := range kinds {
			count[k]++
		}
		if stale || count[Stale] != 1 || count[Fresh] != 2 {
			t.Errorf("stale after 59 s: %v; told %v", stale, count)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := len(s.asked); n < 60 || n > 130 {
			t.Errorf("%d attempts in two hours of Retry-After: 60", n)
		}
	})
}

// TestScheduleCrossesWithoutAServer: the dial moves by the local clock, in handles and in reads by key.
func TestScheduleCrossesWithoutAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := time.Now().Add(time.Hour)
		ramp := darkmodetest.Bool("ramp", dial.Off, func(f *feature.Flag) {
			f.Schedule = &feature.Schedule{Ramp: true, Stages: []feature.Stage{{At: at, Dial: 0}, {At: at.Add(10000 * time.Second), Dial: 10000}}}
		})
		c := New(Config{Bootstrap: darkmodetest.Bootstrap(ramp)})
		h := c.BoolFlag("ramp", false)
		unit := "user-7"
		bucket := dial.Bucket("ramp", unit)
		time.Sleep(time.Until(at.Add(time.Duration(bucket) * time.Second)))
		if h.On(unit) || c.Bool("ramp", unit, true) {
			t.Errorf("on at dial %d, the bucket is %d", bucket, bucket)
		}
		time.Sleep(time.Second)
		if !h.On(unit) || !c.Bool("ramp", unit, false) {
			t.Errorf("off at dial %d, the bucket is %d", bucket+1, bucket)
		}
		time.Sleep(3 * time.Hour)
		if !h.On("anyone") {
			t.Error("off after the end of the ramp")
		}
	})
}

// TestReadsDuringSwaps reads from many goroutines while states are swapped; with -race it also proves there is none.
func TestReadsDuringSwaps(t *testing.T) {
	c := New(Config{Bootstrap: darkmodetest.Bootstrap(on("a"), darkmodetest.Bool("half", 5000))})
	a, half := c.BoolFlag("a", true), c.BoolFlag("half", false)
	want := dial.Dial(5000).On("half", "u")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if !a.On("u") || half.On("u") != want || !c.Bool("a", "u", false) || c.BoolDetail("half", &feature.Context{TargetingKey: "u"}, !want).Value != want {
					t.Error("an answer changed though no definition did")
					return
				}
			}
		})
	}
	for i := range uint64(300) {
		flags := []feature.Flag{on("a"), darkmodetest.Bool("half", 5000), on(fmt.Sprintf("x%d", i))}
		flags[1].Version = i + 2
		c.replace(snapshot{Revision: i + 2, Flags: flags}, FromServer)
	}
	close(stop)
	wg.Wait()
}

// TestCloseLeavesNothing: every goroutine of a client is gone when Close returns, wherever it was.
func TestCloseLeavesNothing(t *testing.T) {
	srv := darkmodetest.New(t, on("a"))
	before := runtime.NumGoroutine()
	for i := range 5 {
		cfg := fast(srv.URL)
		cfg.ReportInterval, cfg.CopyFile = time.Hour, filepath.Join(t.TempDir(), "flags")
		if i%2 == 1 {
			cfg.Servers = []string{"http://127.0.0.1:1"}
		}
		c := New(cfg)
		c.Start(t.Context())
		if i%2 == 0 {
			waitReady(t, c)
		}
		closeClient(t, c)
		closeClient(t, c)
		c.Start(t.Context())
	}
	srv.DropStreams()
	for range 500 {
		if _, open, _ := srv.Stats(); open == 0 && runtime.NumGoroutine() <= before+2 {
			return
		}
		runtime.Gosched()
		time.Sleep(time.Millisecond) // the server's own connections end a little later
	}
	buf := make([]byte, 1<<16)
	if all := string(buf[:runtime.Stack(buf, true)]); strings.Contains(all, "darkmode.(*Client)") {
		t.Errorf("goroutines are left:\n%s", all)
	}
}
