package seeder

import (
	"context"
	"log/slog"
	"sync"

	"github.com/murmuration/murmuration/internal/record"
)

// Bounds of the script output a seeder remembers. What failed is stored as well, so it outlives both bounds and
// the process.
const (
	shelfBytes = 32 << 20
	// shelfBacklog is how many outputs may wait to be stored; when the store is away for longer, the oldest
	// stay in memory only.
	shelfBacklog = 256
)

// scriptShelf keeps what check scripts printed on each host in their last attempt. Safe for concurrent use.
type scriptShelf struct {
	log   *slog.Logger
	store record.Store

	mu    sync.Mutex
	byKey map[string]record.Scripts // by "service/host"
	order []string                  // oldest first
	bytes int
	fails chan string // keys to store
}

func newScriptShelf(log *slog.Logger, store record.Store) *scriptShelf {
	return &scriptShelf{log: log, store: store, byKey: map[string]record.Scripts{}, fails: make(chan string, shelfBacklog)}
}

// put keeps one attempt's output in place of the one before; it never blocks.
func (s *scriptShelf) put(host, service string, out record.Scripts, failed bool) {
	key := service + "/" + host
	s.mu.Lock()
	s.dropLocked(key)
	s.byKey[key] = out
	s.order = append(s.order, key)
	s.bytes += sizeOf(out)
	for s.bytes > shelfBytes && len(s.order) > 1 {
		s.dropLocked(s.order[0])
	}
	s.mu.Unlock()
	if failed {
		select {
		case s.fails <- key:
		default:
			s.log.Warn("script output is kept in memory only: too much waits to be stored", "host", host, "service", service)
		}
	}
}

func (s *scriptShelf) dropLocked(key string) {
	old, ok := s.byKey[key]
	if !ok {
		return
	}
	s.bytes -= sizeOf(old)
	delete(s.byKey, key)
	for i, k := range s.order {
		if k == key {
			s.order = append(s.order[:i], s.order[i+1:]...)
			break
		}
	}
}

func sizeOf(out record.Scripts) int {
	n := 256
	for _, o := range out.Outputs {
		n += 128 + len(o.Output) + len(o.Name) + len(o.Error)
	}
	return n
}

// get returns the newest output of a host: from memory, else from the store.
func (s *scriptShelf) get(ctx context.Context, host, service string) (record.Scripts, error) {
	key := service + "/" + host
	s.mu.Lock()
	out, ok := s.byKey[key]
	s.mu.Unlock()
	if ok {
		return out, nil
	}
	out, _, err := record.Get[record.Scripts](ctx, s.store, record.Key{Kind: record.KindScripts, ID: key})
	return out, err
}

// run stores failed attempts until ctx ends.
func (s *scriptShelf) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case key := <-s.fails:
			s.save(ctx, key)
		}
	}
}

func (s *scriptShelf) save(ctx context.Context, key string) {
	s.mu.Lock()
	out, ok := s.byKey[key]
	s.mu.Unlock()
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	op, err := record.PutForm(record.Key{Kind: record.KindScripts, ID: key}, out, record.Any)
	if err == nil {
		_, err = s.store.Commit(ctx, op)
	}
	if err != nil {
		s.log.Warn("script output could not be stored", "attempt", key, "err", err)
	}
}
