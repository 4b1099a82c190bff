// Package storetest is the contract of record.Store as tests. Every store runs them:
//
//	func TestContract(t *testing.T) {
//		storetest.Run(t, func(tb testing.TB) record.Store { return ... })
//	}
//
// Open is called once per test and returns an empty store that the test closes. The tests run in parallel.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/internal/record"
)

// patience bounds a wait that would otherwise hang a broken store's test; it is not a measurement.
const patience = 30 * time.Second

// Run checks the whole contract.
func Run(t *testing.T, open func(testing.TB) record.Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, record.Store){
		"CompareAndSwap":    compareAndSwap,
		"AllOrNothing":      allOrNothing,
		"ConflictNamesKey":  conflictNamesKey,
		"RevisionsGrow":     revisionsGrow,
		"RefusedCommits":    refusedCommits,
		"ListInOrder":       listInOrder,
		"PageBothWays":      pageBothWays,
		"PageFarDown":       pageFarDown,
		"BigValues":         bigValues,
		"OwnMemory":         ownMemory,
		"EndsWithContext":   endsWithContext,
		"ConcurrentModify":  concurrentModify,
		"WatchOrder":        watchOrder,
		"WatchKinds":        watchKinds,
		"WatchSlow":         watchSlow,
		"WatchEnds":         watchEnds,
		"ElectionOneLeader": electionOneLeader,
		"ElectionFence":     electionFence,
		"ElectionCancel":    electionCancel,
		"ElectionsSeparate": electionSeparate,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			test(t, s)
		})
	}
}

func key(id string) record.Key { return record.Key{Kind: record.KindService, ID: id} }

func commit(t testing.TB, s record.Store, ops ...record.Op) int64 {
	t.Helper()
	rev, err := s.Commit(t.Context(), ops...)
	if err != nil {
		t.Fatalf("Commit: %v", err)
	}
	return rev
}

func wantGet(t testing.TB, s record.Store, k record.Key, value string, rev int64) {
	t.Helper()
	item, err := s.Get(t.Context(), k)
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	if want := (record.Item{Key: k, Value: []byte(value), Rev: rev}); !cmp.Equal(item, want) {
		t.Errorf("Get = %+v, want %+v", item, want)
	}
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want one that is %q", what, err, want)
	}
}

func ids(items []record.Item) []string {
	out := make([]string, len(items))
	for i, item := range items {
		out[i] = item.Key.ID
	}
	return out
}

func compareAndSwap(t *testing.T, s record.Store) {
	ctx, k := t.Context(), key("web")
	_, err := s.Get(ctx, k)
	wantErr(t, "Get of nothing", err, record.ErrNotFound)
	_, err = s.Commit(ctx, record.Put(k, []byte("a"), 7))
	wantErr(t, "update of nothing", err, record.ErrConflict)

	first := commit(t, s, record.Put(k, []byte("a"), 0))
	wantGet(t, s, k, "a", first)
	_, err = s.Commit(ctx, record.Put(k, []byte("b"), 0))
	wantErr(t, "second create", err, record.ErrConflict)

	second := commit(t, s, record.Put(k, []byte("b"), first))
	_, err = s.Commit(ctx, record.Put(k, []byte("c"), first))
	wantErr(t, "stale update", err, record.ErrConflict)
	_, err = s.Commit(ctx, record.Drop(k, first))
	wantErr(t, "stale delete", err, record.ErrConflict)
	wantGet(t, s, k, "b", second)

	third := commit(t, s, record.Put(k, []byte("d"), record.Any))
	commit(t, s, record.Check(k, third))
	_, err = s.Commit(ctx, record.Check(k, second))
	wantErr(t, "stale check", err, record.ErrConflict)
	commit(t, s, record.Drop(k, third))
	_, err = s.Get(ctx, k)
	wantErr(t, "Get of deleted", err, record.ErrNotFound)
	commit(t, s, record.Drop(k, record.Any))
	again := commit(t, s, record.Put(k, []byte{}, 0))
	item, err := s.Get(ctx, k)
	if err != nil || len(item.Value) != 0 || item.Rev != again {
		t.Errorf("Get of empty value = %+v, %v; want no bytes at revision %d", item, err, again)
	}
}

func allOrNothing(t *testing.T, s record.Store) {
	a, b, c := key("a"), key("b"), key("c")
	rev := commit(t, s, record.Put(a, []byte("1"), 0), record.Put(b, []byte("1"), 0))
	wantGet(t, s, a, "1", rev)
	wantGet(t, s, b, "1", rev)

	_, err := s.Commit(t.Context(), record.Put(a, []byte("2"), rev), record.Drop(b, rev), record.Check(c, rev))
	wantErr(t, "one condition of three fails", err, record.ErrConflict)
	wantGet(t, s, a, "1", rev)
	wantGet(t, s, b, "1", rev)

	next := commit(t, s, record.Put(a, []byte("2"), rev), record.Drop(b, rev), record.Check(c, 0))
	wantGet(t, s, a, "2", next)
	_, err = s.Get(t.Context(), b)
	wantErr(t, "Get of deleted", err, record.ErrNotFound)
}

func conflictNamesKey(t *testing.T, s record.Store) {
	rev := commit(t, s, record.Put(key("right"), []byte("1"), 0), record.Put(key("wrong"), []byte("1"), 0))
	_, err := s.Commit(t.Context(),
		record.Put(key("unconditional"), []byte("2"), record.Any),
		record.Put(key("right"), []byte("2"), rev),
		record.Put(key("wrong"), []byte("2"), rev+1000),
		record.Put(key("later"), []byte("2"), rev+1000))
	wantErr(t, "commit", err, record.ErrConflict)
	if err != nil && !strings.Contains(err.Error(), key("wrong").String()) {
		t.Errorf("error %q does not name %s", err, key("wrong"))
	}
}

func revisionsGrow(t *testing.T, s record.Store) {
	last := int64(0)
	for i := range 5 {
		rev := commit(t, s, record.Put(key(fmt.Sprint(i)), []byte("x"), 0))
		if rev <= last {
			t.Errorf("revision %d after %d", rev, last)
		}
		last = rev
	}
	_, rev, err := s.List(t.Context(), record.KindService, "")
	if err != nil || rev < last {
		t.Errorf("List at revision %d, %v; want %d or more", rev, err, last)
	}
}

func refusedCommits(t *testing.T, s record.Store) {
	many := make([]record.Op, record.MaxOps+1)
	for i := range many {
		many[i] = record.Put(key(fmt.Sprint(i)), []byte("x"), 0)
	}
	noise := make([]byte, record.MaxValue+1)
	fill(noise)
	for name, ops := range map[string][]record.Op{
		"no ops":          nil,
		"too many ops":    many,
		"key twice":       {record.Put(key("a"), []byte("1"), 0), record.Check(key("a"), 0)},
		"bad id":          {record.Put(key("a//b"), []byte("1"), 0)},
		"id that climbs":  {record.Put(key("a/../b"), []byte("1"), 0)},
		"bad kind":        {record.Put(record.Key{Kind: "a/b", ID: "c"}, []byte("1"), 0)},
		"bad condition":   {record.Put(key("a"), []byte("1"), -2)},
		"write and drop":  {{Key: key("a"), Value: []byte("1"), Delete: true}},
		"value too large": {record.Put(key("a"), noise, 0)},
		"commit too large": {
			record.Put(key("a"), noise[:record.MaxCommit/2], 0),
			record.Put(key("b"), noise[:record.MaxCommit/2], 0),
		},
	} {
		if rev, err := s.Commit(t.Context(), ops...); err == nil {
			t.Errorf("%s: committed at revision %d", name, rev)
		} else if errors.Is(err, record.ErrConflict) || errors.Is(err, record.ErrUnavailable) {
			t.Errorf("%s: error %v would be tried again", name, err)
		}
	}
	items, _, err := s.List(t.Context(), record.KindService, "")
	if err != nil || len(items) != 0 {
		t.Errorf("List = %v, %v; want nothing", ids(items), err)
	}
	commit(t, s, many[:record.MaxOps]...)
}

func listInOrder(t *testing.T, s record.Store) {
	commit(t, s,
		record.Put(key("b/2"), []byte("x"), 0), record.Put(key("a"), []byte("x"), 0),
		record.Put(key("b/1"), []byte("x"), 0), record.Put(key("bb"), []byte("x"), 0),
		record.Put(key("b/10"), []byte("x"), 0),
		record.Put(record.Key{Kind: record.KindHost, ID: "b/3"}, []byte("x"), 0))
	for prefix, want := range map[string][]string{
		"":     {"a", "b/1", "b/10", "b/2", "bb"},
		"b":    {"b/1", "b/10", "b/2", "bb"},
		"b/":   {"b/1", "b/10", "b/2"},
		"b/1":  {"b/1", "b/10"},
		"none": {},
	} {
		items, _, err := s.List(t.Context(), record.KindService, prefix)
		if err != nil {
			t.Fatalf("List %q: %v", prefix, err)
		}
		if diff := cmp.Diff(want, ids(items)); diff != "" {
			t.Errorf("List %q (-want +got):\n%s", prefix, diff)
		}
	}
	if _, _, err := s.List(t.Context(), "no/kind", ""); err == nil {
		t.Error("List of an invalid kind succeeded")
	}
}

func pageBothWays(t *testing.T, s record.Store) {
	for i := range 9 {
		commit(t, s, record.Put(key(fmt.Sprintf("web/%d", i)), []byte("x"), 0))
	}
	commit(t, s, record.Put(key("aaa"), []byte("x"), 0), record.Put(key("zzz"), []byte("x"), 0))
	for _, reverse := range []bool{false, true} {
		var got []string
		for after := ""; ; {
			items, err := s.Page(t.Context(), record.KindService, "web/", after, 4, reverse)
			if err != nil {
				t.Fatalf("Page: %v", err)
			}
			if len(items) == 0 {
				break
			}
			got = append(got, ids(items)...)
			after = got[len(got)-1]
		}
		want := []string{"web/0", "web/1", "web/2", "web/3", "web/4", "web/5", "web/6", "web/7", "web/8"}
		if reverse {
			want = []string{"web/8", "web/7", "web/6", "web/5", "web/4", "web/3", "web/2", "web/1", "web/0"}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("pages, reverse %v (-want +got):\n%s", reverse, diff)
		}
	}
	for _, after := range []string{"zz", "web/8"} {
		if items, err := s.Page(t.Context(), record.KindService, "web/", after, 4, false); err != nil || len(items) > 0 {
			t.Errorf("Page after %s = %v, %v; want nothing", after, ids(items), err)
		}
	}
	if _, err := s.Page(t.Context(), record.KindService, "", "", 0, false); err == nil {
		t.Error("Page with limit 0 succeeded")
	}
}

// load commits n small records fast.
func load(t testing.TB, s record.Store, n int, id func(int) string, value func(int) []byte) {
	t.Helper()
	for i := 0; i < n; i += record.MaxOps {
		var ops []record.Op
		for j := i; j < min(i+record.MaxOps, n); j++ {
			ops = append(ops, record.Put(key(id(j)), value(j), 0))
		}
		commit(t, s, ops...)
	}
}

func pageFarDown(t *testing.T, s record.Store) {
	const n = 2000
	id := func(i int) string { return fmt.Sprintf("%012d", i*i) }
	load(t, s, n, id, func(i int) []byte { return fmt.Append(nil, i) })
	commit(t, s, record.Put(key("1x"), []byte("x"), 0))
	items, _, err := s.List(t.Context(), record.KindService, "0")
	if err != nil || len(items) != n {
		t.Fatalf("List: %d items, %v; want %d", len(items), err, n)
	}
	for i, item := range items {
		if item.Key.ID != id(i) || string(item.Value) != fmt.Sprint(i) {
			t.Fatalf("item %d is %s = %s", i, item.Key, item.Value)
		}
	}
	for _, from := range []int{n, n - 1, 1234, 300, 7, 0} {
		after := "0" + strings.Repeat("9", 11)
		if from < n {
			after = id(from)
		}
		items, err := s.Page(t.Context(), record.KindService, "0", after, 10, true)
		if err != nil {
			t.Fatalf("Page: %v", err)
		}
		want := []string{}
		for i := from - 1; i >= max(from-10, 0); i-- {
			want = append(want, id(i))
		}
		if diff := cmp.Diff(want, ids(items)); diff != "" {
			t.Errorf("10 before item %d (-want +got):\n%s", from, diff)
		}
	}
}

// fill writes the same incompressible bytes every time.
func fill(b []byte) {
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(b) // never fails
}

func bigValues(t *testing.T, s record.Store) {
	text := bytes.Repeat([]byte(`{"host":"h-0123","phase":"staged"},`), 900<<10/35)
	noise := make([]byte, 900<<10)
	fill(noise)
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd, 'x'} // looks compressed, is not
	for id, value := range map[string][]byte{"text": text, "noise": noise, "magic": magic} {
		rev := commit(t, s, record.Put(key(id), value, 0))
		item, err := s.Get(t.Context(), key(id))
		if err != nil || item.Rev != rev || !bytes.Equal(item.Value, value) {
			t.Errorf("%s: Get of %d bytes = %d bytes at %d, %v", id, len(value), len(item.Value), item.Rev, err)
		}
	}
	items, _, err := s.List(t.Context(), record.KindService, "")
	if err != nil || len(items) != 3 || !bytes.Equal(items[2].Value, text) {
		t.Errorf("List = %v, %v", ids(items), err)
	}
}

func ownMemory(t *testing.T, s record.Store) {
	value := []byte("before")
	rev := commit(t, s, record.Put(key("a"), value, 0))
	copy(value, "AFTER!")
	wantGet(t, s, key("a"), "before", rev)
	item, err := s.Get(t.Context(), key("a"))
	if err != nil {
		t.Fatal(err)
	}
	copy(item.Value, "AFTER!")
	wantGet(t, s, key("a"), "before", rev)
}

func endsWithContext(t *testing.T, s record.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Get(ctx, key("a"))
	wantErr(t, "Get", err, context.Canceled)
	_, _, err = s.List(ctx, record.KindService, "")
	wantErr(t, "List", err, context.Canceled)
	_, err = s.Page(ctx, record.KindService, "", "", 1, false)
	wantErr(t, "Page", err, context.Canceled)
	_, err = s.Commit(ctx, record.Put(key("a"), nil, 0))
	wantErr(t, "Commit", err, context.Canceled)
	_, err = s.Campaign(ctx, "loop", "x")
	wantErr(t, "Campaign", err, context.Canceled)
	_, _, err = s.Leader(ctx, "loop")
	wantErr(t, "Leader", err, context.Canceled)
	err = s.Watch(ctx, []record.Kind{record.KindService}, func(record.Batch) error { return nil })
	wantErr(t, "Watch", err, context.Canceled)
}

func concurrentModify(t *testing.T, s record.Store) {
	const writers, each = 4, 5
	k := key("web")
	if _, err := record.Create(t.Context(), s, k, record.Service{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, writers)
	for w := range writers {
		go func() {
			var failed error
			for i := range each {
				_, err := record.Modify(t.Context(), s, k, func(web *record.Service) error {
					web.History = append(web.History, fmt.Sprintf("%d-%d", w, i))
					return nil
				})
				failed = errors.Join(failed, err)
			}
			errs <- failed
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	web, _, err := record.Get[record.Service](t.Context(), s, k)
	slices.Sort(web.History)
	if err != nil || len(slices.Compact(web.History)) != writers*each {
		t.Errorf("changes %v, %v; want %d", web.History, err, writers*each)
	}
}
