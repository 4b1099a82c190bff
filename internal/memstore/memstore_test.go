package memstore_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/murmuration/murmuration/internal/memstore"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(testing.TB) record.Store { return memstore.New() })
}

var web = record.Key{Kind: record.KindService, ID: "web"}

func TestFaults(t *testing.T) {
	s := memstore.New()
	defer s.Close()
	var seen []string
	s.Fail(func(op memstore.Op) error {
		seen = append(seen, op.String())
		if op.Name == "commit" {
			return record.ErrUnavailable
		}
		return nil
	})
	if _, err := s.Commit(t.Context(), record.Put(web, []byte("1"), 0)); !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("Commit = %v, want ErrUnavailable", err)
	}
	if _, err := s.Get(t.Context(), web); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("Get = %v: the failed commit was applied", err)
	}
	if got, want := strings.Join(seen, ", "), "commit service/web, get service/web"; got != want {
		t.Errorf("operations %q, want %q", got, want)
	}
	s.Fail(nil)
	s.Lose(func(memstore.Op) error { return record.ErrUnavailable })
	if _, err := s.Commit(t.Context(), record.Put(web, []byte("1"), 0)); !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("Commit = %v, want ErrUnavailable", err)
	}
	s.Lose(nil)
	if _, err := s.Get(t.Context(), web); err != nil {
		t.Errorf("Get = %v: the commit whose answer was lost was not applied", err)
	}
}

func TestWatchLosesPlace(t *testing.T) {
	s := memstore.New()
	defer s.Close()
	s.WatchBuffer(2)
	w := storetest.StartWatch(t, s, record.KindService)
	content := storetest.Content{}
	content.Apply(w.Next())
	for range 10 {
		if _, err := s.Commit(t.Context(), record.Put(web, []byte("x"), record.Any)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Commit(t.Context(), record.Put(web, []byte("last"), record.Any)); err != nil {
		t.Fatal(err)
	}
	if w.Until(content, func(c storetest.Content) bool { return c[web] == "last" }) == 0 {
		t.Error("a watch 11 commits behind with room for 2 was not reset")
	}
	s.ResetWatches()
	if b := w.Next(); !b.Reset || len(b.Changes) != 1 {
		t.Errorf("batch %+v, want a reset with one record", b)
	}
}

func TestDepose(t *testing.T) {
	s := memstore.New()
	defer s.Close()
	if s.Depose("loop") {
		t.Error("Depose of nobody = true")
	}
	l, err := s.Campaign(t.Context(), "loop", "a")
	if err != nil {
		t.Fatal(err)
	}
	if !s.Depose("loop") {
		t.Error("Depose = false")
	}
	<-l.Lost()
	if _, err := l.Commit(t.Context(), record.Put(web, []byte("1"), 0)); !errors.Is(err, record.ErrNotLeader) {
		t.Errorf("Commit of a deposed leader = %v, want ErrNotLeader", err)
	}
}
