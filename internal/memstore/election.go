package memstore

import (
	"context"
	"fmt"
	"slices"

	"github.com/murmuration/murmuration/internal/record"
)

// election is one name's leader and those who wait, first come first elected. Guarded by Store.mu.
type election struct {
	name    string
	leader  *leadership
	waiting []*leadership
}

// leadership is a candidate's, then a leader's place. It implements record.Leadership.
type leadership struct {
	store    *Store
	election *election
	value    string
	term     uint64
	elected  chan struct{}
	lost     chan struct{}
}

// Campaign implements record.Store.
func (s *Store) Campaign(ctx context.Context, name, value string) (record.Leadership, error) {
	l := &leadership{store: s, value: value, elected: make(chan struct{}), lost: make(chan struct{})}
	err := s.do(ctx, Op{Name: "campaign"}, func() error {
		if err := record.ElectionValid(name, value); err != nil {
			return err
		}
		if s.elections[name] == nil {
			s.elections[name] = &election{name: name}
		}
		l.election = s.elections[name]
		l.election.waiting = append(l.election.waiting, l)
		s.electLocked(l.election)
		return nil
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-l.elected:
		return l, nil
	case <-s.closed:
		return nil, fmt.Errorf("campaign for %s: %w", name, errClosed)
	case <-ctx.Done():
		s.withdraw(l)
		return nil, fmt.Errorf("campaign for %s: %w", name, ctx.Err())
	}
}

// Leader implements record.Store.
func (s *Store) Leader(ctx context.Context, name string) (value string, term uint64, err error) {
	err = s.do(ctx, Op{Name: "leader"}, func() error {
		e := s.elections[name]
		if e == nil || e.leader == nil {
			return fmt.Errorf("leader of %s: %w", name, record.ErrNotFound)
		}
		value, term = e.leader.value, e.leader.term
		return nil
	})
	return value, term, err
}

// electLocked makes the longest waiting candidate the leader if there is none.
func (s *Store) electLocked(e *election) {
	if e.leader != nil || len(e.waiting) == 0 || s.isClosed {
		return
	}
	e.leader, e.waiting = e.waiting[0], e.waiting[1:]
	s.rev++
	e.leader.term = uint64(s.rev)
	close(e.leader.elected)
}

// withdraw removes a candidate whose caller is gone, or resigns for it if it has just won.
func (s *Store) withdraw(l *leadership) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.election.waiting = slices.DeleteFunc(l.election.waiting, func(w *leadership) bool { return w == l })
	l.loseLocked()
	s.electLocked(l.election)
}

// Term implements record.Leadership.
func (l *leadership) Term() uint64 { return l.term }

// Lost implements record.Leadership.
func (l *leadership) Lost() <-chan struct{} { return l.lost }

// Commit implements record.Leadership.
func (l *leadership) Commit(ctx context.Context, ops ...record.Op) (int64, error) {
	return l.store.commit(ctx, l, ops)
}

// Resign implements record.Leadership.
func (l *leadership) Resign(context.Context) error {
	l.store.withdraw(l)
	return nil
}

func (l *leadership) heldLocked() bool { return l.election.leader == l }

func (l *leadership) notHeld() error {
	return fmt.Errorf("leadership of %s, term %d: %w", l.election.name, l.term, record.ErrNotLeader)
}

func (l *leadership) loseLocked() {
	if l.election.leader != l {
		return
	}
	l.election.leader = nil
	close(l.lost)
}
