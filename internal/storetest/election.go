package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/murmuration/murmuration/internal/record"
)

func campaign(t testing.TB, s record.Store, election, value string) record.Leadership {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, err := s.Campaign(ctx, election, value)
	if err != nil {
		t.Fatalf("Campaign: %v", err)
	}
	return l
}

// candidate campaigns in the background.
func candidate(t testing.TB, s record.Store, election, value string) <-chan record.Leadership {
	won := make(chan record.Leadership, 1)
	go func() {
		if l, err := s.Campaign(t.Context(), election, value); err == nil {
			won <- l
		}
	}()
	return won
}

func elected(t testing.TB, won <-chan record.Leadership) record.Leadership {
	t.Helper()
	select {
	case l := <-won:
		return l
	case <-time.After(patience):
		t.Fatal("nobody is elected")
		return nil
	}
}

func resign(t testing.TB, l record.Leadership) {
	t.Helper()
	if err := l.Resign(t.Context()); err != nil {
		t.Errorf("Resign: %v", err)
	}
	select {
	case <-l.Lost():
	default:
		t.Error("Lost is open after Resign")
	}
}

func electionOneLeader(t *testing.T, s record.Store) {
	_, _, err := s.Leader(t.Context(), "loop")
	wantErr(t, "Leader of nobody", err, record.ErrNotFound)
	leader := campaign(t, s, "loop", "0")
	second, third := candidate(t, s, "loop", "1"), candidate(t, s, "loop", "1")
	for range 2 {
		value, term, err := s.Leader(t.Context(), "loop")
		if err != nil || term != leader.Term() {
			t.Errorf("Leader = %q, %d, %v; want term %d", value, term, err, leader.Term())
		}
		select {
		case <-second:
			t.Fatal("two leaders")
		case <-third:
			t.Fatal("two leaders")
		case <-leader.Lost():
			t.Fatal("leadership lost")
		default:
		}
		resign(t, leader)
		var next record.Leadership
		select {
		case next = <-second:
			second = nil
		case next = <-third:
			third = nil
		case <-time.After(patience):
			t.Fatal("nobody is elected")
		}
		if next.Term() <= leader.Term() {
			t.Errorf("term %d after %d", next.Term(), leader.Term())
		}
		leader = next
	}
	resign(t, leader)
	_, _, err = s.Leader(t.Context(), "loop")
	wantErr(t, "Leader after the last", err, record.ErrNotFound)
	if _, err := s.Campaign(t.Context(), "no/name", ""); err == nil {
		t.Error("Campaign for an invalid name succeeded")
	}
}

func electionFence(t *testing.T, s record.Store) {
	ctx := t.Context()
	old := campaign(t, s, "loop", "old")
	rev, err := old.Commit(ctx, record.Put(key("a"), []byte("1"), 0))
	if err != nil {
		t.Fatalf("Commit of the leader: %v", err)
	}
	_, err = old.Commit(ctx, record.Put(key("a"), []byte("2"), 0))
	wantErr(t, "conflict of the leader", err, record.ErrConflict)
	full := make([]record.Op, record.MaxOps)
	for i := range full {
		full[i] = record.Put(key("full/"+string(rune('A'+i%26))+string(rune('A'+i/26))), []byte("x"), 0)
	}
	if _, err := old.Commit(ctx, full...); err != nil {
		t.Errorf("Commit of as many ops as allowed: %v", err)
	}
	won := candidate(t, s, "loop", "new")
	resign(t, old)
	next := elected(t, won)
	_, err = old.Commit(ctx, record.Put(key("a"), []byte("stale"), rev))
	wantErr(t, "Commit of the old leader", err, record.ErrNotLeader)
	wantGet(t, s, key("a"), "1", rev)
	if _, err := next.Commit(ctx, record.Put(key("a"), []byte("2"), rev)); err != nil {
		t.Errorf("Commit of the new leader: %v", err)
	}
	if value, term, err := s.Leader(ctx, "loop"); err != nil || value != "new" || term != next.Term() {
		t.Errorf("Leader = %q, %d, %v; want new, %d", value, term, err, next.Term())
	}
	resign(t, next)
}

func electionCancel(t *testing.T, s record.Store) {
	leader := campaign(t, s, "loop", "0")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := s.Campaign(ctx, "loop", "1")
		ended <- err
	}()
	cancel()
	select {
	case err := <-ended:
		wantErr(t, "Campaign", err, context.Canceled)
	case <-time.After(patience):
		t.Fatal("Campaign outlives its context")
	}
	last := candidate(t, s, "loop", "2")
	resign(t, leader)
	resign(t, elected(t, last)) // the one that gave up does not stand in the way
}

// electionSeparate holds two elections at once: they do not mix, even when one name starts with the other.
func electionSeparate(t *testing.T, s record.Store) {
	loop, loops := campaign(t, s, "loop", "a"), campaign(t, s, "loop-s", "b")
	if value, term, err := s.Leader(t.Context(), "loop"); err != nil || value != "a" || term != loop.Term() {
		t.Errorf("Leader = %q, %d, %v; want a, %d", value, term, err, loop.Term())
	}
	resign(t, loop)
	select {
	case <-loops.Lost():
		t.Error("the other election's leader is lost too")
	default:
	}
	resign(t, loops)
}
