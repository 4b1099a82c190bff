package memstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/murmuration/murmuration/internal/record"
)

const defaultBehind = 1024

// watcher is one running Watch. Its fields are guarded by Store.mu; wake has room for one.
type watcher struct {
	kinds map[record.Kind]bool
	queue []record.Batch
	lost  bool
	wake  chan struct{}
}

// push queues what of a commit the watcher is interested in.
func (w *watcher) push(b record.Batch, most int) {
	b.Changes = slices.DeleteFunc(slices.Clone(b.Changes), func(c record.Change) bool { return !w.kinds[c.Key.Kind] })
	switch {
	case len(b.Changes) == 0 || w.lost:
		return
	case len(w.queue) >= most:
		w.reset()
		return
	}
	w.queue = append(w.queue, b)
	w.signal()
}

func (w *watcher) reset() {
	w.lost, w.queue = true, nil
	w.signal()
}

func (w *watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Watch implements record.Store.
func (s *Store) Watch(ctx context.Context, kinds []record.Kind, fn func(record.Batch) error) error {
	w := &watcher{kinds: make(map[record.Kind]bool), lost: true, wake: make(chan struct{}, 1)}
	for _, kind := range kinds {
		if err := kind.Valid(); err != nil {
			return err
		}
		w.kinds[kind] = true
	}
	if len(kinds) == 0 {
		return fmt.Errorf("watch: at least one kind is needed")
	}
	s.mu.Lock()
	s.watchers[w] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, w)
		s.mu.Unlock()
	}()
	return s.deliver(ctx, w, fn)
}

func (s *Store) deliver(ctx context.Context, w *watcher, fn func(record.Batch) error) error {
	for {
		batch, ok, err := s.next(w)
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("watch: %w", ctx.Err())
		case ok:
			if err := fn(batch); err != nil {
				return err
			}
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
		case <-s.closed:
			return fmt.Errorf("watch: %w", errClosed)
		}
	}
}

// next takes the watcher's next batch; ok is false when there is none.
func (s *Store) next(w *watcher) (batch record.Batch, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.lost {
		w.lost = false
		batch, err = s.contentLocked(w)
		return batch, true, err
	}
	if len(w.queue) == 0 {
		return record.Batch{}, false, nil
	}
	batch, w.queue = w.queue[0], w.queue[1:]
	for i, c := range batch.Changes {
		value, err := s.packer.Unpack(c.Value)
		if err != nil {
			return record.Batch{}, false, fmt.Errorf("watch: %s: %w", c.Key, err)
		}
		batch.Changes[i].Value = bytes.Clone(value)
	}
	return batch, true, nil
}

// contentLocked is the whole present content a watcher is interested in, as a Reset.
func (s *Store) contentLocked(w *watcher) (record.Batch, error) {
	batch := record.Batch{Rev: s.rev, Reset: true}
	for k, c := range s.items {
		if !w.kinds[k.Kind] {
			continue
		}
		item, err := s.item(k, c)
		if err != nil {
			return record.Batch{}, fmt.Errorf("watch: %w", err)
		}
		batch.Changes = append(batch.Changes, record.Change{Item: item})
	}
	slices.SortFunc(batch.Changes, func(a, b record.Change) int {
		return strings.Compare(a.Key.String(), b.Key.String())
	})
	return batch, nil
}
