package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/murmuration/murmuration/internal/record"
)

// watch is one running Watch; only the goroutine that called Watch uses it.
type watch struct {
	s          *Store
	fn         func(record.Batch) error
	kinds      []record.Kind
	start, end string
	// known holds the revision of every record delivered and not deleted since, rev the newest revision
	// up to which everything was delivered.
	known map[record.Key]int64
	rev   int64
	// pending is what the last comparison found that the watch should still deliver; see audit.
	pending *pending
}

// Why a round of a watch ended; anything else is an error of etcd, after which the watch resumes.
var (
	errPlaceLost = errors.New("the watch lost its place")
	errSlow      = fmt.Errorf("%w: the receiver is too slow", errPlaceLost)
	errMissed    = fmt.Errorf("%w: a comparison found a missed change", errPlaceLost)
)

// receiverError is an error of the function that receives batches; it ends the watch.
type receiverError struct{ err error }

func (e receiverError) Error() string { return e.err.Error() }

// Watch implements record.Store.
func (s *Store) Watch(ctx context.Context, kinds []record.Kind, fn func(record.Batch) error) error {
	if len(kinds) == 0 {
		return errors.New("watch: at least one kind is needed")
	}
	for _, kind := range kinds {
		if err := kind.Valid(); err != nil {
			return err
		}
	}
	w := &watch{s: s, fn: fn, kinds: slices.Clone(kinds)}
	w.start, w.end = s.keys.span(kinds)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(errClosed) })()
	return w.run(ctx)
}

// run starts over or resumes until the receiver or the context ends the watch.
func (w *watch) run(ctx context.Context) error {
	lost := true
	for failures := 0; ; failures++ {
		before := w.rev
		var err error
		if lost {
			err = w.reset(ctx)
		}
		if err == nil {
			lost = false
			err = w.follow(ctx)
		}
		var received receiverError
		switch {
		case errors.As(err, &received):
			return received.err
		case ctx.Err() != nil:
			return fmt.Errorf("watch: %w", context.Cause(ctx))
		}
		lost = lost || errors.Is(err, errPlaceLost)
		if w.rev > before {
			failures = 0
		}
		w.s.log.Warn("watch interrupted", "kinds", w.kinds, "rev", w.rev, "from_scratch", lost, "err", err)
		pause(ctx, failures)
	}
}

// reset reads everything and delivers it.
func (w *watch) reset(ctx context.Context) error {
	kvs, rev, err := w.s.scan(ctx, "watch", w.start, w.end)
	if err != nil {
		return err
	}
	batch := record.Batch{Rev: rev, Reset: true}
	known := make(map[record.Key]int64, len(kvs))
	for _, kv := range kvs {
		if k, ok := w.wanted(kv.Key); ok {
			batch.Changes = append(batch.Changes, record.Change{Item: w.item(k, kv.Value, kv.ModRevision)})
			known[k] = kv.ModRevision
		}
	}
	w.known, w.rev, w.pending = known, rev, nil
	return w.deliver(batch)
}

// follow delivers what happens after w.rev, and compares now and then.
func (w *watch) follow(ctx context.Context) error {
	wctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(ctx))
	defer cancel(nil)
	responses := w.s.watcher.Watch(wctx, w.start, clientv3.WithRange(w.end),
		clientv3.WithRev(w.rev+1), clientv3.WithProgressNotify())
	queue := make(chan clientv3.WatchResponse, w.s.cfg.WatchBuffer)
	go pump(responses, queue, cancel)
	compare := time.NewTimer(w.comparePeriod())
	defer compare.Stop()
	for {
		select {
		case resp, ok := <-queue:
			if !ok {
				return context.Cause(wctx)
			}
			if err := w.receive(resp); err != nil {
				return err
			}
		case <-compare.C:
			if err := w.audit(ctx); err != nil {
				return err
			}
			compare.Reset(w.comparePeriod())
		}
	}
}

// pump moves responses into the bounded queue, so that the client library, whose own queue has no bound, never
// holds more than one. When the queue is full it gives up the watch: reading everything anew is cheaper.
func pump(responses clientv3.WatchChan, queue chan<- clientv3.WatchResponse, cancel context.CancelCauseFunc) {
	defer close(queue)
	defer cancel(errors.New("etcd ended the watch"))
	for resp := range responses {
		select {
		case queue <- resp:
		default:
			cancel(errSlow)
			return
		}
	}
}

// receive delivers one response of etcd, which holds all events of one or more revisions.
func (w *watch) receive(resp clientv3.WatchResponse) error {
	switch {
	case resp.CompactRevision != 0:
		return fmt.Errorf("%w: revisions before %d were compacted", errPlaceLost, resp.CompactRevision)
	case resp.Err() != nil:
		return resp.Err()
	case resp.IsProgressNotify():
		// Everything before the notice's revision was delivered.
		w.rev = max(w.rev, resp.Header.Revision-1)
		return nil
	}
	for events := resp.Events; len(events) > 0; {
		rev := events[0].Kv.ModRevision
		n := 1
		for n < len(events) && events[n].Kv.ModRevision == rev {
			n++
		}
		if err := w.commit(rev, events[:n]); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// commit delivers the events of one revision, once.
func (w *watch) commit(rev int64, events []*clientv3.Event) error {
	if rev <= w.rev {
		return nil
	}
	w.rev = rev
	batch := record.Batch{Rev: rev}
	for _, e := range events {
		k, ok := w.wanted(e.Kv.Key)
		if !ok {
			continue
		}
		change := record.Change{Item: record.Item{Key: k, Rev: rev}, Deleted: e.Type == clientv3.EventTypeDelete}
		if change.Deleted {
			delete(w.known, k)
		} else {
			change.Item, w.known[k] = w.item(k, e.Kv.Value, rev), rev
		}
		batch.Changes = append(batch.Changes, change)
	}
	if len(batch.Changes) == 0 {
		return nil
	}
	return w.deliver(batch)
}

func (w *watch) deliver(b record.Batch) error {
	if err := w.fn(b); err != nil {
		return receiverError{err}
	}
	return nil
}

// item unpacks a value. One that cannot be unpacked is delivered as it is stored: its receiver fails to decode
// it and keeps what it had, while all other records go on.
func (w *watch) item(k record.Key, stored []byte, rev int64) record.Item {
	value, err := w.s.packer.Unpack(stored)
	if err != nil {
		w.s.log.Error("stored value is damaged", "key", k, "rev", rev, "err", err)
		value = stored
	}
	return record.Item{Key: k, Value: value, Rev: rev}
}

// wanted parses a key and says whether it is of a kind that is watched.
func (w *watch) wanted(key []byte) (record.Key, bool) {
	k, ok := w.s.keys.parse(string(key))
	return k, ok && slices.Contains(w.kinds, k.Kind)
}

// comparePeriod spreads the comparisons of many watches by a tenth.
func (w *watch) comparePeriod() time.Duration {
	every := w.s.cfg.CompareEvery
	return every - every/10 + rand.N(every/5+1)
}

// pause waits before try n (0, 1, ...): up to 50 ms doubled each time, at most 2 s, at random.
func pause(ctx context.Context, n int) {
	timer := time.NewTimer(rand.N(min(50*time.Millisecond<<min(n, 6), 2*time.Second)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
