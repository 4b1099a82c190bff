package etcdstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/internal/etcdstore"
	"github.com/murmuration/murmuration/internal/etcdstore/embedded"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/storetest"
)

// server is an etcd server a test may stop and start.
type server struct {
	tb  testing.TB
	cfg embedded.Config
	*embedded.Server
}

func startServer(tb testing.TB) *server {
	tb.Helper()
	s := &server{tb: tb, cfg: embedded.Config{Dir: filepath.Join(tb.TempDir(), "store"), NoSync: true}}
	s.start()
	tb.Cleanup(func() { s.Stop() })
	return s
}

func (s *server) start() {
	s.tb.Helper()
	var err error
	if s.Server, err = embedded.Start(s.tb.Context(), s.cfg); err != nil {
		s.tb.Fatal(err)
	}
}

// eventually tries fn until it succeeds; it gives up only on a store that does not recover at all.
func eventually(tb testing.TB, what string, fn func(context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	for {
		err := fn(ctx)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			tb.Fatalf("%s: %v", what, err)
		}
	}
}

var web = record.Key{Kind: record.KindService, ID: "web"}

func set(tb testing.TB, s record.Store, k record.Key, value string) int64 {
	tb.Helper()
	rev, err := s.Commit(tb.Context(), record.Put(k, []byte(value), record.Any))
	if err != nil {
		tb.Fatalf("Commit: %v", err)
	}
	return rev
}

// TestOutage takes etcd away from a store in use, and gives it back.
func TestOutage(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	cfg := config(t, srv.Server)
	cfg.OpTimeout, cfg.LeaseTTL = 500*time.Millisecond, 2*time.Second
	s := open(t, cfg)
	set(t, s, web, "before")
	leader, err := s.Campaign(t.Context(), "loop", "first")
	if err != nil {
		t.Fatal(err)
	}
	watch, content := storetest.StartWatch(t, s, record.KindService), storetest.Content{}
	watch.Until(content, func(c storetest.Content) bool { return c[web] == "before" })

	srv.Stop()
	_, err = s.Commit(t.Context(), record.Put(web, []byte("lost"), record.Any))
	if !errors.Is(err, record.ErrUnavailable) || !strings.Contains(err.Error(), "no answer from "+srv.Endpoints()[0]) {
		t.Errorf("Commit without etcd: %v, want ErrUnavailable and where it was sought", err)
	}
	if _, err := s.Get(t.Context(), web); !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("Get without etcd: %v, want ErrUnavailable", err)
	}
	if _, err := etcdstore.Open(t.Context(), etcdstore.Config{
		Endpoints: srv.Endpoints(), DialTimeout: 100 * time.Millisecond,
	}); !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("Open without etcd: %v, want ErrUnavailable", err)
	}
	<-leader.Lost() // it can no longer be proved
	_, err = leader.Commit(t.Context(), record.Put(web, []byte("stale"), record.Any))
	if !errors.Is(err, record.ErrNotLeader) {
		t.Errorf("Commit of the lost leader: %v, want ErrNotLeader", err)
	}

	srv.start()
	eventually(t, "Get after the outage", func(ctx context.Context) error {
		item, err := s.Get(ctx, web)
		if err == nil && string(item.Value) != "before" {
			t.Errorf("Get = %q, want before", item.Value)
		}
		return err
	})
	set(t, s, web, "after")
	watch.Until(content, func(c storetest.Content) bool { return c[web] == "after" })
	next, err := s.Campaign(t.Context(), "loop", "second") // once the old lease has run out
	if err != nil {
		t.Fatal(err)
	}
	if next.Term() <= leader.Term() {
		t.Errorf("term %d after %d", next.Term(), leader.Term())
	}
}

// TestLazyOpen starts before etcd does.
func TestLazyOpen(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	srv.Stop()
	cfg := config(t, srv.Server)
	cfg.Lazy, cfg.DialTimeout, cfg.OpTimeout = true, 50*time.Millisecond, 500*time.Millisecond
	s := open(t, cfg)
	watch := storetest.StartWatch(t, s, record.KindService)
	if _, err := s.Get(t.Context(), web); !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("Get before etcd is there: %v, want ErrUnavailable", err)
	}
	srv.start()
	if b := watch.Next(); !b.Reset {
		t.Errorf("first batch %+v, want a reset", b)
	}
}

// TestFailover cuts a leader off without a word: another takes over when its lease runs out, and the old one
// can write no more, even when its connection comes back.
func TestFailover(t *testing.T) {
	t.Parallel()
	cfg := config(t, shared)
	cfg.LeaseTTL = 2 * time.Second
	other := open(t, cfg)
	wire := cutter(t, &cfg)
	dead := open(t, cfg)
	first, err := dead.Campaign(t.Context(), "loop", "dead")
	if err != nil {
		t.Fatal(err)
	}
	wire.cut()
	next, err := other.Campaign(t.Context(), "loop", "other")
	if err != nil {
		t.Fatal(err)
	}
	if next.Term() <= first.Term() {
		t.Errorf("term %d after %d", next.Term(), first.Term())
	}
	<-first.Lost()
	wire.restore()
	_, err = first.Commit(t.Context(), record.Put(web, []byte("stale"), record.Any))
	if !errors.Is(err, record.ErrNotLeader) {
		t.Errorf("Commit of the dead leader: %v, want ErrNotLeader", err)
	}
}

// TestCompactedWatch lets history disappear while a watch is cut off. What was deleted meanwhile must go too.
func TestCompactedWatch(t *testing.T) {
	t.Parallel()
	srv := startServer(t) // compaction touches every prefix
	cfg := config(t, srv.Server)
	direct := open(t, cfg)
	wire := cutter(t, &cfg)
	s := open(t, cfg)
	gone := record.Key{Kind: record.KindService, ID: "gone"}
	set(t, direct, web, "1")
	set(t, direct, gone, "1")
	watch, content := storetest.StartWatch(t, s, record.KindService), storetest.Content{}
	content.Apply(watch.Next())

	wire.cut()
	set(t, direct, web, "2")
	if _, err := direct.Commit(t.Context(), record.Drop(gone, record.Any)); err != nil {
		t.Fatal(err)
	}
	compact(t, srv.Endpoints(), set(t, direct, web, "3"))
	wire.restore()
	b := watch.Next()
	content.Apply(b)
	if diff := cmp.Diff(storetest.Content{web: "3"}, content); !b.Reset || diff != "" {
		t.Errorf("reset %v (-want +got):\n%s", b.Reset, diff)
	}
	set(t, direct, web, "4")
	if b := watch.Next(); b.Reset || len(b.Changes) != 1 || string(b.Changes[0].Value) != "4" {
		t.Errorf("batch %+v, want the change to 4", b)
	}
}

// TestRestoredBackup puts an older state under a watch: no event tells of it, only the comparison can.
func TestRestoredBackup(t *testing.T) {
	t.Parallel()
	srv := startServer(t)
	cfg := config(t, srv.Server)
	cfg.CompareEvery = 20 * time.Millisecond
	s := open(t, cfg)
	set(t, s, web, "old")
	srv.Stop()
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(filepath.Join(srv.cfg.Dir, "data"))); err != nil {
		t.Fatal(err)
	}
	srv.start()
	eventually(t, "Commit", func(ctx context.Context) error {
		_, err := s.Commit(ctx, record.Put(web, []byte("new"), record.Any))
		return err
	})
	for range 10 {
		set(t, s, web, "new")
	}
	watch, content := storetest.StartWatch(t, s, record.KindService), storetest.Content{}
	watch.Until(content, func(c storetest.Content) bool { return c[web] == "new" })
	srv.Stop()
	if err := os.RemoveAll(filepath.Join(srv.cfg.Dir, "data")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(backup, filepath.Join(srv.cfg.Dir, "data")); err != nil {
		t.Fatal(err)
	}
	srv.start()
	watch.Until(content, func(c storetest.Content) bool { return c[web] == "old" })
}

// TestSlowReceiver overruns a small buffer.
func TestSlowReceiver(t *testing.T) {
	t.Parallel()
	cfg := config(t, shared)
	cfg.WatchBuffer = 1
	s := open(t, cfg)
	watch, content := storetest.StartWatch(t, s, record.KindService), storetest.Content{}
	content.Apply(watch.Next())
	set(t, s, web, "first") // what a watch gets before etcd has it up to date comes in few responses
	content.Apply(watch.Next())
	for i := range 50 {
		set(t, s, web, fmt.Sprint(i))
	}
	resets := watch.Until(content, func(c storetest.Content) bool { return c[web] == "49" })
	if resets == 0 {
		t.Error("a watch 50 commits behind with room for one was not reset")
	}
}

// TestComparison compares all the time while records change: content stays right.
func TestComparison(t *testing.T) {
	t.Parallel()
	cfg := config(t, shared)
	cfg.CompareEvery = time.Millisecond
	s := open(t, cfg)
	watch, content := storetest.StartWatch(t, s, record.KindService), storetest.Content{}
	go func() {
		for i := range 200 {
			k := record.Key{Kind: record.KindService, ID: fmt.Sprint(i % 10)}
			_, _ = s.Commit(t.Context(), record.Put(k, fmt.Append(nil, i), record.Any)) // the content tells
			_, _ = s.Commit(t.Context(), record.Drop(k, record.Any))
		}
		_, _ = s.Commit(t.Context(), record.Put(web, []byte("end"), record.Any))
	}()
	watch.Until(content, func(c storetest.Content) bool { return c[web] == "end" })
	if diff := cmp.Diff(storetest.Content{web: "end"}, content); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
}
