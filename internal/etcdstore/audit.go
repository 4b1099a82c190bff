package etcdstore

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/murmuration/murmuration/internal/record"
)

// pending remembers, from one comparison to the next, which records the watch had still to hear of.
type pending struct {
	// upTo is the revision of the comparison: by the next one the watch must have delivered everything
	// up to it, or at least changed each of these records.
	upTo int64
	was  map[record.Key]int64
}

// audit compares the revisions of all records with what was delivered. A difference the watch cannot make
// good any more is errMissed. A difference that may just be on its way is remembered; if it is still there
// at the next audit, the watch is stuck and that is errMissed too. Only keys travel, no values.
func (w *watch) audit(ctx context.Context) error {
	if err := w.overdue(); err != nil {
		return err
	}
	kvs, rev, err := w.s.scan(ctx, "compare", w.start, w.end, clientv3.WithKeysOnly())
	if err != nil {
		w.s.log.Warn("comparison skipped", "kinds", w.kinds, "err", err)
		return nil
	}
	if rev < w.rev {
		return fmt.Errorf("%w: the store went back from revision %d to %d", errMissed, w.rev, rev)
	}
	stored := make(map[record.Key]int64, len(kvs))
	for _, kv := range kvs {
		if k, ok := w.wanted(kv.Key); ok {
			stored[k] = kv.ModRevision
		}
	}
	return w.compare(stored, rev)
}

// overdue reports what the last comparison found late and is still not here.
func (w *watch) overdue() error {
	p := w.pending
	if p == nil || w.rev >= p.upTo {
		return nil
	}
	for k, was := range p.was {
		if w.known[k] == was {
			return fmt.Errorf("%w: %s, due since revision %d", errMissed, k, p.upTo)
		}
	}
	return nil
}

// compare is the decision of audit, given what is stored at a revision that is not before w.rev.
func (w *watch) compare(stored map[record.Key]int64, rev int64) error {
	w.pending = nil
	late := make(map[record.Key]int64)
	for k, at := range stored {
		switch {
		case w.known[k] == at:
		case at <= w.rev:
			return fmt.Errorf("%w: %s changed at revision %d", errMissed, k, at)
		default:
			late[k] = w.known[k]
		}
	}
	for k, was := range w.known {
		if _, ok := stored[k]; ok {
			continue
		}
		if rev <= w.rev {
			return fmt.Errorf("%w: %s was deleted by revision %d", errMissed, k, rev)
		}
		late[k] = was
	}
	if len(late) > 0 {
		w.pending = &pending{upTo: rev, was: late}
	}
	return nil
}
