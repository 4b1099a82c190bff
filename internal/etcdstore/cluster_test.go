package etcdstore_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/storetest"
)

// TestCluster checks a store that talks to three members, as in production. Each part leaves all of them up.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	t.Run("writes", func(t *testing.T) { clusterWrites(t, c) })
	t.Run("election", func(t *testing.T) { clusterElection(t, c) })
	t.Run("members down", func(t *testing.T) { clusterMembersDown(t, c) })
}

// seen is a watch that notes every value of web, up to "end".
type seen struct {
	tb     testing.TB
	ended  chan error
	values []string
	revs   []int64
	resets int
}

var errSeenEnd = errors.New("seen the end")

func watchWeb(tb testing.TB, s record.Store) *seen {
	tb.Helper()
	w := &seen{tb: tb, ended: make(chan error, 1)}
	started := make(chan struct{})
	go func() {
		w.ended <- s.Watch(tb.Context(), []record.Kind{record.KindService}, func(b record.Batch) error {
			if b.Reset {
				if w.resets++; w.resets == 1 {
					close(started)
				}
			}
			for _, change := range b.Changes {
				w.values, w.revs = append(w.values, string(change.Value)), append(w.revs, change.Rev)
				if string(change.Value) == "end" {
					return errSeenEnd
				}
			}
			return nil
		})
	}()
	select {
	case <-started:
	case err := <-w.ended:
		tb.Fatalf("watch ended: %v", err)
	}
	return w
}

// writeEnd writes the last value.
func writeEnd(tb testing.TB, s record.Store) {
	tb.Helper()
	eventually(tb, "write the end", func(ctx context.Context) error {
		_, err := s.Commit(ctx, record.Put(web, []byte("end"), record.Any))
		return err
	})
}

// wait returns when the watch has the last value: then it has delivered all there was.
func (w *seen) wait() {
	w.tb.Helper()
	select {
	case err := <-w.ended:
		if !errors.Is(err, errSeenEnd) {
			w.tb.Fatalf("watch ended: %v", err)
		}
	case <-time.After(patience):
		w.tb.Fatal("the watch does not come to the end")
	}
	if w.resets != 1 {
		w.tb.Errorf("%d resets; a change of leader costs a watch nothing but time", w.resets)
	}
}

// check fails unless every acknowledged value was seen once, in order, and nothing nobody wrote.
func (w *seen) check(acked map[string]int64, tried map[string]bool) {
	w.tb.Helper()
	at := make(map[string]int64)
	last := int64(0)
	for i, value := range w.values {
		if w.revs[i] <= last {
			w.tb.Errorf("revision %d after %d", w.revs[i], last)
		}
		last = w.revs[i]
		if value == "end" { // perhaps written twice
			continue
		}
		if first, again := at[value]; again {
			w.tb.Errorf("%s seen at revisions %d and %d", value, first, w.revs[i])
		}
		if at[value] = w.revs[i]; !tried[value] {
			w.tb.Errorf("%s seen, whose commit was refused", value)
		}
	}
	for value, rev := range acked {
		if at[value] != rev {
			w.tb.Errorf("%s acknowledged at revision %d, seen at %d", value, rev, at[value])
		}
	}
}

// clusterWrites lets clients write while the leader of etcd moves, dies and comes back: what happened is
// linearizable, every acknowledged write is there, and a watch at any member saw each of them once.
func clusterWrites(t *testing.T, c *cluster) {
	cfg := c.config(t)
	reader := open(t, cfg)
	h, p := newHistory(), newProgress(t)
	var watches []*seen // one at each member, so that one loses its member
	for i := range c.members {
		one := cfg
		one.Endpoints = cfg.Endpoints[i : i+1]
		watches = append(watches, watchWeb(t, open(t, one)))
	}
	for client := range 4 {
		s := open(t, cfg)
		p.wg.Go(func() {
			for i := 0; !p.over(); i++ {
				if h.swap(t, s, client, fmt.Sprintf("%d-%d", client, i)) {
					p.step()
				}
			}
		})
	}
	const some = 10
	p.await(t, "at first", some)
	for range 3 {
		c.moveLeader(t)
		p.await(t, "after the leader moved", some)
	}
	dead := c.killLeader(t)
	p.await(t, "after the leader died", some)
	dead.restart(t)
	p.await(t, "after it came back", some)
	p.end()
	h.do(0, registerIn{}, func() registerOut {
		var item record.Item
		eventually(t, "read the last value", func(ctx context.Context) (err error) {
			item, err = reader.Get(ctx, web)
			return err
		})
		return registerOut{value: string(item.Value)}
	})
	writeEnd(t, reader)
	for _, w := range watches {
		w.wait()
		w.check(h.acked, h.tried)
	}
	h.check(t, 5*some)
}

// clusterElection lets three candidates lead and write in turn while the leader of etcd moves, dies and comes
// back, and while leaders are deposed without a word: no write of a leader comes after one of a later leader.
func clusterElection(t *testing.T, c *cluster) {
	cfg := c.config(t)
	s := open(t, cfg)
	w, p := watchWeb(t, s), newProgress(t)
	for range 3 {
		s := open(t, cfg)
		p.wg.Go(func() { leadUntil(t, s, p) })
	}
	const some = 10
	p.await(t, "at first", some)
	for _, disturb := range []func(){
		func() { c.moveLeader(t) }, func() { depose(t, cfg.Endpoints, cfg.Prefix) }, func() { c.moveLeader(t) },
	} {
		disturb()
		p.await(t, "after a change", some)
	}
	dead := c.killLeader(t)
	depose(t, cfg.Endpoints, cfg.Prefix)
	p.await(t, "after both leaders went", some)
	dead.restart(t)
	p.await(t, "after etcd's came back", some)
	p.end()
	writeEnd(t, s)
	w.wait()
	terms, last := 0, uint64(0)
	for _, value := range w.values[:len(w.values)-1] {
		term, err := strconv.ParseUint(value, 10, 64)
		switch {
		case err != nil && value != "end":
			t.Fatal(err)
		case term > last:
			terms++
		case term < last:
			t.Errorf("a write of term %d after one of term %d", term, last)
		}
		last = max(last, term)
	}
	if terms < 3 {
		t.Errorf("%d leaders wrote, want at least 3: the test proves nothing", terms)
	}
}

// leadUntil campaigns and, while it leads, writes its term to web, until p is over.
func leadUntil(t *testing.T, s record.Store, p *progress) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.wg.Go(func() {
		select {
		case <-p.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	for !p.over() {
		l, err := s.Campaign(ctx, "loop", "candidate")
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Campaign: %v", err)
			}
			return
		}
		for err = nil; !p.over() && !errors.Is(err, record.ErrNotLeader); {
			_, err = l.Commit(t.Context(), record.Put(web, []byte(strconv.FormatUint(l.Term(), 10)), record.Any))
			switch {
			case err == nil:
				p.step()
			case !errors.Is(err, record.ErrNotLeader) && !errors.Is(err, record.ErrUnavailable):
				t.Errorf("Commit of term %d: %v", l.Term(), err)
				return
			}
		}
		if p.over() {
			return
		}
		<-l.Lost() // closed with, or before, the first ErrNotLeader
	}
}

// depose removes the key of the leader of "loop", as its owner would not notice.
func depose(tb testing.TB, endpoints []string, prefix string) {
	tb.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints})
	if err != nil {
		tb.Fatal(err)
	}
	defer client.Close()
	eventually(tb, "depose the leader", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		resp, err := client.Get(ctx, prefix+"e/loop/", clientv3.WithFirstCreate()...)
		if err != nil {
			return err
		}
		if len(resp.Kvs) == 0 {
			return errors.New("nobody leads")
		}
		_, err = client.Delete(ctx, string(resp.Kvs[0].Key))
		return err
	})
}

// clusterMembersDown takes one member away, which changes nothing, then a second, which leaves no quorum.
func clusterMembersDown(t *testing.T, c *cluster) {
	cfg := c.config(t)
	cfg.OpTimeout, cfg.LeaseTTL = 300*time.Millisecond, 3*time.Second // a renewal may find its member dead, and is late
	s := open(t, cfg)
	leader, err := s.Campaign(t.Context(), "loop", "first")
	if err != nil {
		t.Fatal(err)
	}
	u := use(t, s)
	u.goesOn("all up", leader)
	first := c.members[(c.leader(t)+1)%len(c.members)]
	first.kill()
	for range 10 {
		u.goesOn("one down", leader)
	}
	second := c.killLeader(t)
	wantNoQuorum(t, s)
	<-leader.Lost()
	if _, err := leader.Commit(t.Context(), record.Put(web, []byte("stale"), record.Any)); !errors.Is(err, record.ErrNotLeader) {
		t.Errorf("Commit of the lost leader: %v, want ErrNotLeader", err)
	}
	second.restart(t)
	next, err := s.Campaign(t.Context(), "loop", "second")
	if err != nil {
		t.Fatal(err)
	}
	if next.Term() <= leader.Term() {
		t.Errorf("term %d after %d", next.Term(), leader.Term())
	}
	u.goesOn("two up", next)
	first.restart(t)
	u.goesOn("all up again", next)
	writeEnd(t, s)
	u.seen.wait()
	u.seen.check(u.acked, u.tried)
}

// user writes, reads and watches one value after the other.
type user struct {
	tb      testing.TB
	s       record.Store
	watch   *storetest.Watcher
	content storetest.Content
	seen    *seen
	acked   map[string]int64
	tried   map[string]bool
}

func use(tb testing.TB, s record.Store) *user {
	tb.Helper()
	u := &user{
		tb: tb, s: s, watch: storetest.StartWatch(tb, s, record.KindService), content: storetest.Content{},
		seen: watchWeb(tb, s), acked: make(map[string]int64), tried: make(map[string]bool),
	}
	u.content.Apply(u.watch.Next())
	return u
}

// goesOn writes as l, with a new value at each try, and waits until it can be read and was delivered.
func (u *user) goesOn(when string, l record.Leadership) {
	u.tb.Helper()
	var value string
	eventually(u.tb, "Commit with "+when, func(ctx context.Context) error {
		value = fmt.Sprint(when, " ", len(u.tried))
		u.tried[value] = true
		rev, err := l.Commit(ctx, record.Put(web, []byte(value), record.Any))
		if err == nil {
			u.acked[value] = rev
		}
		return err
	})
	eventually(u.tb, "Get with "+when, func(ctx context.Context) error {
		item, err := u.s.Get(ctx, web)
		if err == nil && string(item.Value) != value {
			u.tb.Errorf("Get = %q, want %s", item.Value, value)
		}
		return err
	})
	u.watch.Until(u.content, func(c storetest.Content) bool { return c[web] == value })
}

// wantNoQuorum checks what a store says when most members are down.
func wantNoQuorum(t *testing.T, s record.Store) {
	t.Helper()
	maybe := record.Key{Kind: record.KindHost, ID: "maybe"} // a commit without an answer may still come true
	if _, err := s.Commit(t.Context(), record.Put(maybe, []byte("1"), 0)); !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("Commit without a quorum: %v, want ErrUnavailable", err)
	}
	_, err := s.Get(t.Context(), web)
	if !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("Get without a quorum: %v, want ErrUnavailable", err)
	} else if !strings.Contains(err.Error(), "no answer from") && !strings.Contains(err.Error(), "no leader") {
		t.Errorf("Get without a quorum: %v, which does not say why", err)
	}
	if _, _, err := s.List(t.Context(), record.KindService, ""); !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("List without a quorum: %v, want ErrUnavailable", err)
	}
}
