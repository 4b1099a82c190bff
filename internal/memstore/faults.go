package memstore

import (
	"fmt"

	"github.com/murmuration/murmuration/internal/record"
)

var errClosed = fmt.Errorf("%w: it is closed", record.ErrUnavailable)

// Op is an operation as a fault function sees it.
type Op struct {
	// Name is "get", "list", "page", "commit", "campaign" or "leader". A watch never fails: it reconnects.
	Name string
	// Keys are what it reads or changes (get, commit), Kind what it lists.
	Keys []record.Key
	Kind record.Kind
}

// String renders the operation for messages.
func (op Op) String() string {
	if len(op.Keys) > 0 {
		return op.Name + " " + op.Keys[0].String()
	}
	return op.Name + " " + string(op.Kind)
}

// Fail makes every operation for which fn returns an error end with it and change nothing. Nil heals the store.
// Fn is called without locks and may be called concurrently; usually it returns record.ErrUnavailable.
func (s *Store) Fail(fn func(Op) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = fn
}

// Lose is [Fail] after the fact: the operation is done, only its answer is lost. It is how a commit ends
// when the connection breaks at the wrong moment.
func (s *Store) Lose(fn func(Op) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after = fn
}

// ResetWatches makes every watch lose its place: each delivers a Reset next.
func (s *Store) ResetWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		w.reset()
	}
}

// WatchBuffer sets how many batches a watch may be behind before it loses its place and delivers a Reset.
// The default is 1024; it must be at least 1.
func (s *Store) WatchBuffer(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behind = max(n, 1)
}

// Depose takes the leadership of an election away, as when a lease runs out: the leader's Lost is closed and
// the next candidate is elected. It reports whether there was a leader.
func (s *Store) Depose(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.elections[name]
	if e == nil || e.leader == nil {
		return false
	}
	e.leader.loseLocked()
	s.electLocked(e)
	return true
}

func (s *Store) faults() (before, after func(Op) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	none := func(Op) error { return nil }
	before, after = s.before, s.after
	if before == nil {
		before = none
	}
	if after == nil {
		after = none
	}
	return before, after
}
