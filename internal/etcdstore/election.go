package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"github.com/murmuration/murmuration/internal/record"
)

// leadership is a candidate's place in the queue of an election and, once it is first, the leadership. It
// implements record.Leadership.
type leadership struct {
	s     *Store
	name  string
	key   string
	lease clientv3.LeaseID
	term  uint64 // create revision of key
	lost  chan struct{}
	once  sync.Once
}

var errLeaseLost = errors.New("the lease ran out while waiting")

// Campaign implements record.Store. When etcd fails meanwhile it queues again by itself.
func (s *Store) Campaign(ctx context.Context, election, value string) (record.Leadership, error) {
	if err := record.ElectionValid(election, value); err != nil {
		return nil, err
	}
	for failures := 0; ; failures++ {
		l, err := s.campaign(ctx, election, value)
		switch {
		case err == nil:
			return l, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("campaign for %s: %w", election, ctx.Err())
		case s.ctx.Err() != nil:
			return nil, fmt.Errorf("campaign for %s: %w", election, errClosed)
		}
		s.log.Warn("campaign interrupted", "election", election, "err", err)
		pause(ctx, failures)
	}
}

// campaign queues once and waits for its turn.
func (s *Store) campaign(ctx context.Context, election, value string) (*leadership, error) {
	l, err := s.candidate(ctx, election)
	if err != nil {
		return nil, err
	}
	if err = l.enqueue(ctx, value); err == nil {
		err = l.wait(ctx)
	}
	if err != nil {
		l.withdraw()
		return nil, err
	}
	return l, nil
}

// candidate takes a lease and keeps it alive until it is lost.
func (s *Store) candidate(ctx context.Context, election string) (*leadership, error) {
	l := &leadership{s: s, name: election, lost: make(chan struct{})}
	granted := time.Now()
	err := s.do(ctx, "lease for "+election, func(ctx context.Context) error {
		resp, err := s.client.Grant(ctx, int64(s.cfg.LeaseTTL/time.Second))
		if err == nil {
			l.lease = resp.ID
			l.key = s.keys.election(election) + strconv.FormatInt(int64(resp.ID), 16)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.held[l] = true
	s.mu.Unlock()
	go l.keepAlive(granted)
	return l, nil
}

// keepAlive renews the lease and declares it lost a fifth of its time before it can run out.
func (l *leadership) keepAlive(granted time.Time) {
	defer l.lose()
	ctx, cancel := context.WithCancel(l.s.ctx)
	defer cancel()
	answers, err := l.s.client.KeepAlive(ctx, l.lease)
	if err != nil {
		l.s.log.Warn("lease cannot be renewed", "election", l.name, "err", err)
		return
	}
	provable := l.s.cfg.LeaseTTL - l.s.cfg.LeaseTTL/5
	expiry := time.NewTimer(provable - time.Since(granted))
	defer expiry.Stop()
	for {
		select {
		case resp, ok := <-answers:
			if !ok || resp.TTL <= 0 {
				return
			}
			expiry.Reset(provable)
		case <-expiry.C:
			return
		case <-l.lost:
			return
		}
	}
}

// enqueue creates the candidate's key; the revision that does is its term.
func (l *leadership) enqueue(ctx context.Context, value string) error {
	return l.s.do(ctx, "campaign for "+l.name, func(ctx context.Context) error {
		resp, err := l.s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision(l.key), "=", 0)).
			Then(clientv3.OpPut(l.key, value, clientv3.WithLease(l.lease))).
			Commit()
		switch {
		case err != nil:
			return err
		case !resp.Succeeded:
			return fmt.Errorf("candidate %s exists already", l.key)
		}
		l.term = uint64(resp.Header.Revision)
		return nil
	})
}

// wait returns when every candidate that queued before is gone. Each waits only for the one before it, so
// that the end of a leadership wakes one candidate, not all.
func (l *leadership) wait(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-l.lost:
			cancel(errLeaseLost)
		case <-ctx.Done():
		}
	}()
	for failures := 0; ; failures++ {
		before, rev, err := l.predecessor(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, record.ErrNotLeader):
			return err
		case err == nil && before == "":
			return nil
		case err == nil:
			err = l.awaitDeletion(ctx, before, rev+1)
		}
		if err == nil {
			failures = 0
			continue
		}
		pause(ctx, failures)
	}
}

// predecessor is the key of the candidate that queued just before, "" if there is none, as of rev.
func (l *leadership) predecessor(ctx context.Context) (key string, rev int64, err error) {
	newestBefore := append(clientv3.WithLastCreate(), clientv3.WithMaxCreateRev(int64(l.term)-1))
	err = l.s.do(ctx, "campaign for "+l.name, func(ctx context.Context) error {
		resp, err := l.s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision(l.key), "=", int64(l.term))).
			Then(clientv3.OpGet(l.s.keys.election(l.name), newestBefore...)).
			Commit()
		switch {
		case err != nil:
			return err
		case !resp.Succeeded:
			return l.notHeld()
		}
		if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			key = string(kvs[0].Key)
		}
		rev = resp.Header.Revision
		return nil
	})
	return key, rev, err
}

// awaitDeletion returns nil once key is deleted at or after rev.
func (l *leadership) awaitDeletion(ctx context.Context, key string, rev int64) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for resp := range l.s.watcher.Watch(ctx, key, clientv3.WithRev(rev)) {
		if err := resp.Err(); err != nil {
			return err
		}
		for _, e := range resp.Events {
			if e.Type == clientv3.EventTypeDelete {
				return nil
			}
		}
	}
	return errors.New("etcd ended the watch")
}

// Leader implements record.Store.
func (s *Store) Leader(ctx context.Context, election string) (value string, term uint64, err error) {
	if err := record.ElectionValid(election, ""); err != nil {
		return "", 0, err
	}
	err = s.do(ctx, "leader of "+election, func(ctx context.Context) error {
		resp, err := s.client.Get(ctx, s.keys.election(election), clientv3.WithFirstCreate()...)
		switch {
		case err != nil:
			return err
		case len(resp.Kvs) == 0:
			return record.ErrNotFound
		}
		value, term = string(resp.Kvs[0].Value), uint64(resp.Kvs[0].CreateRevision)
		return nil
	})
	return value, term, err
}

// Term implements record.Leadership.
func (l *leadership) Term() uint64 { return l.term }

// Lost implements record.Leadership.
func (l *leadership) Lost() <-chan struct{} { return l.lost }

// Commit implements record.Leadership.
func (l *leadership) Commit(ctx context.Context, ops ...record.Op) (int64, error) {
	select {
	case <-l.lost:
		return 0, l.notHeld()
	default:
		return l.s.commit(ctx, l, ops)
	}
}

// Resign implements record.Leadership. If etcd cannot be reached, the leadership ends with its lease.
func (l *leadership) Resign(ctx context.Context) error {
	l.lose()
	return l.s.do(ctx, "resign from "+l.name, func(ctx context.Context) error {
		_, err := l.s.client.Revoke(ctx, l.lease)
		if code(err) == codes.NotFound { // it ran out already
			return nil
		}
		return err
	})
}

// withdraw is Resign for a candidate, as well as it can be done: its caller's context may be over.
func (l *leadership) withdraw() {
	ctx, cancel := context.WithTimeout(l.s.ctx, time.Second)
	defer cancel()
	if err := l.Resign(ctx); err != nil {
		l.s.log.Info("candidate leaves with its lease", "election", l.name, "err", err)
	}
}

func (s *Store) resignAll() {
	s.mu.Lock()
	held := make([]*leadership, 0, len(s.held))
	for l := range s.held {
		held = append(held, l)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, l := range held {
		wg.Go(l.withdraw)
	}
	wg.Wait()
}

func (l *leadership) notHeld() error {
	return fmt.Errorf("leadership of %s, term %d: %w", l.name, l.term, record.ErrNotLeader)
}

// lose ends the leadership on this side, once.
func (l *leadership) lose() {
	l.once.Do(func() {
		close(l.lost)
		l.s.mu.Lock()
		delete(l.s.held, l)
		l.s.mu.Unlock()
	})
}
