package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/internal/record"
)

// Watcher runs a watch for a test and hands its batches over one by one: the receiver waits until the test
// takes a batch, so a test decides how slow it is.
type Watcher struct {
	tb      testing.TB
	batches chan record.Batch
	ended   chan error
	cancel  context.CancelFunc
}

// StartWatch starts a watch that ends with the test.
func StartWatch(tb testing.TB, s record.Store, kinds ...record.Kind) *Watcher {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	w := &Watcher{tb: tb, batches: make(chan record.Batch), ended: make(chan error, 1), cancel: cancel}
	go func() {
		w.ended <- s.Watch(ctx, kinds, func(b record.Batch) error {
			select {
			case w.batches <- b:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	tb.Cleanup(cancel)
	return w
}

// Next is the next batch.
func (w *Watcher) Next() record.Batch {
	w.tb.Helper()
	select {
	case b := <-w.batches:
		return b
	case err := <-w.ended:
		w.tb.Fatalf("watch ended: %v", err)
	case <-time.After(patience):
		w.tb.Fatal("watch delivers nothing")
	}
	return record.Batch{}
}

// Until takes batches into content until done says so, and returns how many were resets.
func (w *Watcher) Until(content Content, done func(Content) bool) (resets int) {
	w.tb.Helper()
	for !done(content) {
		b := w.Next()
		content.Apply(b)
		if b.Reset {
			resets++
		}
	}
	return resets
}

// Stop ends the watch and returns its error.
func (w *Watcher) Stop() error {
	w.tb.Helper()
	w.cancel()
	select {
	case err := <-w.ended:
		return err
	case <-time.After(patience):
		w.tb.Fatal("watch does not end")
		return nil
	}
}

// Content is what a receiver of batches knows: the value of every record.
type Content map[record.Key]string

// Apply brings the content up to date.
func (c Content) Apply(b record.Batch) {
	if b.Reset {
		clear(c)
	}
	for _, change := range b.Changes {
		if change.Deleted {
			delete(c, change.Key)
		} else {
			c[change.Key] = string(change.Value)
		}
	}
}

func put(k record.Key, value string, rev int64) record.Change {
	return record.Change{Item: record.Item{Key: k, Value: []byte(value), Rev: rev}}
}

func gone(k record.Key, rev int64) record.Change {
	return record.Change{Item: record.Item{Key: k, Rev: rev}, Deleted: true}
}

func wantBatch(t testing.TB, w *Watcher, want record.Batch) {
	t.Helper()
	if diff := cmp.Diff(want, w.Next()); diff != "" {
		t.Fatalf("batch (-want +got):\n%s", diff)
	}
}

func watchOrder(t *testing.T, s record.Store) {
	a, b := key("a"), key("b")
	first := commit(t, s, record.Put(a, []byte("1"), 0))
	w := StartWatch(t, s, record.KindService)
	// The server may be shared: others may have moved the revision on.
	start := w.Next()
	want := record.Batch{Rev: max(first, start.Rev), Reset: true, Changes: []record.Change{put(a, "1", first)}}
	if diff := cmp.Diff(want, start); diff != "" {
		t.Fatalf("batch (-want +got):\n%s", diff)
	}

	both := commit(t, s, record.Put(b, []byte("1"), 0), record.Put(a, []byte("2"), first))
	dropped := commit(t, s, record.Drop(a, both), record.Put(b, []byte("2"), both))
	commit(t, s, record.Check(b, dropped))
	commit(t, s, record.Drop(key("never"), record.Any))
	last := commit(t, s, record.Put(b, []byte("3"), dropped))
	wantBatch(t, w, record.Batch{Rev: both, Changes: []record.Change{put(b, "1", both), put(a, "2", both)}})
	wantBatch(t, w, record.Batch{Rev: dropped, Changes: []record.Change{gone(a, dropped), put(b, "2", dropped)}})
	wantBatch(t, w, record.Batch{Rev: last, Changes: []record.Change{put(b, "3", last)}})
	wantErr(t, "Watch", w.Stop(), context.Canceled)
}

func watchKinds(t *testing.T, s record.Store) {
	service, host, flag := key("x"), record.Key{Kind: record.KindHost, ID: "x"}, record.Key{Kind: record.KindFlag, ID: "x"}
	w := StartWatch(t, s, record.KindService, record.KindFlag)
	if b := w.Next(); !b.Reset || len(b.Changes) != 0 {
		t.Fatalf("first batch %+v, want an empty reset", b)
	}
	commit(t, s, record.Put(host, []byte("1"), 0))
	rev := commit(t, s, record.Put(service, []byte("1"), 0), record.Put(host, []byte("2"), record.Any),
		record.Put(flag, []byte("1"), 0))
	wantBatch(t, w, record.Batch{Rev: rev, Changes: []record.Change{put(service, "1", rev), put(flag, "1", rev)}})
	for _, kinds := range [][]record.Kind{nil, {"no/kind"}} {
		if err := s.Watch(t.Context(), kinds, nil); err == nil {
			t.Errorf("Watch of %q succeeded", kinds)
		}
	}
}

// watchSlow lets a receiver fall far behind: what it knows in the end must still be the truth.
func watchSlow(t *testing.T, s record.Store) {
	const commits = 600
	w := StartWatch(t, s, record.KindService)
	content := Content{}
	content.Apply(w.Next())
	want := Content{}
	for i := range commits {
		k := key(fmt.Sprint(i % 7))
		if i%5 == 4 {
			commit(t, s, record.Drop(k, record.Any))
			delete(want, k)
			continue
		}
		commit(t, s, record.Put(k, fmt.Append(nil, i), record.Any))
		want[k] = fmt.Sprint(i)
	}
	end := commit(t, s, record.Put(key("end"), []byte("x"), 0))
	want[key("end")] = "x"
	last := int64(0)
	for content[key("end")] == "" {
		b := w.Next()
		if b.Rev <= last {
			t.Fatalf("batch of revision %d after %d", b.Rev, last)
		}
		last = b.Rev
		content.Apply(b)
	}
	if diff := cmp.Diff(want, content); diff != "" || last < end {
		t.Errorf("content at revision %d, want %d or later (-want +got):\n%s", last, end, diff)
	}
}

func watchEnds(t *testing.T, s record.Store) {
	enough := errors.New("enough")
	err := s.Watch(t.Context(), []record.Kind{record.KindService}, func(record.Batch) error { return enough })
	if err != enough { //nolint:errorlint // the very error is promised
		t.Errorf("Watch = %v, want the receiver's own error", err)
	}
	w := StartWatch(t, s, record.KindService)
	w.Next()
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	select {
	case err := <-w.ended:
		wantErr(t, "Watch of a closed store", err, record.ErrUnavailable)
	case <-time.After(patience):
		t.Fatal("watch outlives its store")
	}
	_, err = s.Get(t.Context(), key("a"))
	wantErr(t, "Get from a closed store", err, record.ErrUnavailable)
}
