package memstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/murmuration/murmuration/internal/record"
)

// Store is a record.Store in memory. Make it with [New]. It is safe for concurrent use.
type Store struct {
	packer *record.Packer
	closed chan struct{}

	mu        sync.Mutex
	rev       int64
	items     map[record.Key]cell
	watchers  map[*watcher]bool
	elections map[string]*election
	behind    int
	before    func(Op) error
	after     func(Op) error
	isClosed  bool
}

// cell is one stored record; its value is packed and never changed in place.
type cell struct {
	value []byte
	rev   int64
}

var _ record.Store = (*Store)(nil)

// New makes an empty store.
func New() *Store {
	packer, err := record.NewPacker()
	if err != nil {
		panic("memstore: " + err.Error()) // the packer's options are constants
	}
	return &Store{
		packer: packer, closed: make(chan struct{}), behind: defaultBehind,
		items: make(map[record.Key]cell), watchers: make(map[*watcher]bool), elections: make(map[string]*election),
	}
}

// Get implements record.Store.
func (s *Store) Get(ctx context.Context, k record.Key) (record.Item, error) {
	if err := k.Valid(); err != nil {
		return record.Item{}, err
	}
	var item record.Item
	err := s.do(ctx, Op{Name: "get", Keys: []record.Key{k}}, func() error {
		c, ok := s.items[k]
		if !ok {
			return fmt.Errorf("%s: %w", k, record.ErrNotFound)
		}
		var err error
		item, err = s.item(k, c)
		return err
	})
	return item, err
}

// List implements record.Store.
func (s *Store) List(ctx context.Context, kind record.Kind, prefix string) ([]record.Item, int64, error) {
	if err := kind.Valid(); err != nil {
		return nil, 0, err
	}
	var items []record.Item
	var rev int64
	err := s.do(ctx, Op{Name: "list", Kind: kind}, func() (err error) {
		rev = s.rev
		items, err = s.itemsOf(s.keys(kind, prefix))
		return err
	})
	return items, rev, err
}

// Page implements record.Store.
func (s *Store) Page(
	ctx context.Context, kind record.Kind, prefix, after string, limit int, reverse bool,
) ([]record.Item, error) {
	if err := kind.Valid(); err != nil {
		return nil, err
	}
	if limit < 1 {
		return nil, fmt.Errorf("page of %s: limit %d, at least 1 is needed", kind, limit)
	}
	var items []record.Item
	err := s.do(ctx, Op{Name: "page", Kind: kind}, func() (err error) {
		keys := s.keys(kind, prefix)
		if reverse {
			slices.Reverse(keys)
		}
		keys = slices.DeleteFunc(keys, func(k record.Key) bool {
			return after != "" && (!reverse && k.ID <= after || reverse && k.ID >= after)
		})
		items, err = s.itemsOf(keys[:min(limit, len(keys))])
		return err
	})
	return items, err
}

// Commit implements record.Store.
func (s *Store) Commit(ctx context.Context, ops ...record.Op) (int64, error) {
	return s.commit(ctx, nil, ops)
}

// Close implements record.Store. Watches end, leaderships are lost.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed {
		return nil
	}
	s.isClosed = true
	close(s.closed)
	for _, e := range s.elections {
		if e.leader != nil {
			e.leader.loseLocked()
		}
	}
	return nil
}

// do runs one operation under the lock, with the faults a test asked for around it.
func (s *Store) do(ctx context.Context, op Op, fn func() error) error {
	before, after := s.faults()
	if err := before(op); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if err := s.locked(ctx, fn); err != nil {
		return fmt.Errorf("%s: %w", op.Name, err)
	}
	if err := after(op); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

func (s *Store) locked(ctx context.Context, fn func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.isClosed {
		return errClosed
	}
	return fn()
}

func (s *Store) commit(ctx context.Context, held *leadership, ops []record.Op) (rev int64, err error) {
	packed, err := s.packer.PackOps(ops)
	if err != nil {
		return 0, err
	}
	keys := make([]record.Key, len(ops))
	for i, op := range ops {
		keys[i] = op.Key
	}
	err = s.do(ctx, Op{Name: "commit", Keys: keys}, func() error {
		if held != nil && !held.heldLocked() {
			return held.notHeld()
		}
		for _, op := range packed {
			if op.Conditional() && s.items[op.Key].rev != op.If {
				return fmt.Errorf("%s: %w", op.Key, record.ErrConflict)
			}
		}
		rev, err = s.applyLocked(packed)
		return err
	})
	return rev, err
}

// applyLocked performs the ops and tells every watcher. Conditions hold already.
func (s *Store) applyLocked(ops []record.Op) (int64, error) {
	rev := s.rev + 1
	var changes []record.Change
	for _, op := range ops {
		switch {
		case op.Delete:
			if _, ok := s.items[op.Key]; !ok {
				continue
			}
			delete(s.items, op.Key)
			changes = append(changes, record.Change{Item: record.Item{Key: op.Key, Rev: rev}, Deleted: true})
		case op.Value != nil:
			value := bytes.Clone(op.Value)
			s.items[op.Key] = cell{value, rev}
			changes = append(changes, record.Change{Item: record.Item{Key: op.Key, Value: value, Rev: rev}})
		}
	}
	if len(changes) == 0 {
		return s.rev, nil
	}
	s.rev = rev
	for w := range s.watchers {
		w.push(record.Batch{Rev: rev, Changes: changes}, s.behind)
	}
	return rev, nil
}

// keys are those of a kind with a prefix, in order.
func (s *Store) keys(kind record.Kind, prefix string) []record.Key {
	var keys []record.Key
	for k := range s.items {
		if k.Kind == kind && strings.HasPrefix(k.ID, prefix) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b record.Key) int { return strings.Compare(a.ID, b.ID) })
	return keys
}

func (s *Store) itemsOf(keys []record.Key) ([]record.Item, error) {
	items := make([]record.Item, len(keys))
	for i, k := range keys {
		var err error
		if items[i], err = s.item(k, s.items[k]); err != nil {
			return nil, err
		}
	}
	return items, nil
}

// item unpacks a cell into memory of its own.
func (s *Store) item(k record.Key, c cell) (record.Item, error) {
	value, err := s.packer.Unpack(c.value)
	if err != nil {
		return record.Item{}, fmt.Errorf("%s: %w", k, err)
	}
	return record.Item{Key: k, Value: bytes.Clone(value), Rev: c.rev}, nil
}
