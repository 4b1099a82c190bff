package identity

import (
	"context"
	"log/slog"
	"sync"

	"github.com/murmuration/murmuration/internal/record"
)

// getter is the part of a store that reading needs.
type getter interface {
	Get(ctx context.Context, k record.Key) (record.Item, error)
}

// cachedKinds are followed by a watch: they are small and asked for at every request.
var cachedKinds = []record.Kind{record.KindUser, record.KindToken, record.KindSession, record.KindCert, record.KindFleet}

// cache holds the records of cachedKinds, as the store's watch delivers them. What it does not hold is read from
// the store, so it is never wrong about what exists; about what was deleted or changed it is as late as the
// watch, which is milliseconds while the store is up.
type cache struct {
	store   record.Store
	log     *slog.Logger
	onTrust func(envelope []byte)

	mu    sync.RWMutex
	items map[record.Key]record.Item
	revs  map[record.Key]record.Revocation
}

func newCache(store record.Store, log *slog.Logger, onTrust func([]byte)) *cache {
	return &cache{store: store, log: log, onTrust: onTrust, items: map[record.Key]record.Item{}, revs: map[record.Key]record.Revocation{}}
}

// run follows the store until ctx ends.
func (c *cache) run(ctx context.Context) error {
	return c.store.Watch(ctx, cachedKinds, func(b record.Batch) error {
		c.apply(b)
		return nil
	})
}

func (c *cache) apply(b record.Batch) {
	c.mu.Lock()
	if b.Reset {
		clear(c.items)
		clear(c.revs)
	}
	for _, change := range b.Changes {
		c.setLocked(change)
	}
	trust, ok := c.items[record.TrustKey]
	c.mu.Unlock()
	if ok && b.Rev >= trust.Rev {
		c.offerTrust(trust)
	}
}

func (c *cache) setLocked(change record.Change) {
	delete(c.revs, change.Key)
	if change.Deleted {
		delete(c.items, change.Key)
		return
	}
	if change.Key.Kind == record.KindCert {
		r, err := record.Decode[record.Revocation](change.Value)
		if err != nil {
			// A revocation that cannot be read still revokes: the reason is what is lost.
			c.log.Error("a stored revocation cannot be read", "key", change.Key.ID, "err", err)
			r = record.Revocation{Reason: "the revocation's record cannot be read", At: farFuture}
		}
		c.revs[change.Key] = r
	}
	c.items[change.Key] = change.Item
}

func (c *cache) offerTrust(item record.Item) {
	t, err := record.Decode[record.Trust](item.Value)
	if err != nil {
		c.log.Error("the stored trust bundle cannot be read", "err", err)
		return
	}
	c.onTrust(t.Envelope)
}

// revocation is the revocation stored under k, as of the last update.
func (c *cache) revocation(k record.Key) (record.Revocation, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r, ok := c.revs[k]
	return r, ok
}

// Get returns what the cache holds, and asks the store for what it does not.
func (c *cache) Get(ctx context.Context, k record.Key) (record.Item, error) {
	c.mu.RLock()
	item, ok := c.items[k]
	c.mu.RUnlock()
	if ok {
		return item, nil
	}
	return c.store.Get(ctx, k)
}

// committed applies what this process itself committed, so that it sees its own writes at once. An op
// without a watched kind, or older than what the cache holds, changes nothing.
func (c *cache) committed(rev int64, ops []record.Op) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, op := range ops {
		held, ok := c.items[op.Key]
		isCert := op.Key.Kind == record.KindCert
		if !ok && !isCert || held.Rev > rev || !op.Delete && op.Value == nil {
			continue
		}
		c.setLocked(record.Change{Item: record.Item{Key: op.Key, Value: op.Value, Rev: rev}, Deleted: op.Delete})
	}
}
