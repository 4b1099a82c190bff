package etcdstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/murmuration/murmuration/internal/record"
)

const (
	// A list is read in pages of at most maxPage records and about pageBytes bytes.
	maxPage   = 500
	pageBytes = 4 << 20
	// scanTries bounds how often a list starts over because its revision was compacted meanwhile.
	scanTries = 3
)

// Get implements record.Store.
func (s *Store) Get(ctx context.Context, k record.Key) (record.Item, error) {
	if err := k.Valid(); err != nil {
		return record.Item{}, err
	}
	var resp *clientv3.GetResponse
	err := s.do(ctx, "get "+k.String(), func(ctx context.Context) (err error) {
		resp, err = s.client.Get(ctx, s.keys.record(k))
		return err
	})
	switch {
	case err != nil:
		return record.Item{}, err
	case len(resp.Kvs) == 0:
		return record.Item{}, fmt.Errorf("get %s: %w", k, record.ErrNotFound)
	}
	return s.item(k, resp.Kvs[0])
}

// List implements record.Store.
func (s *Store) List(ctx context.Context, kind record.Kind, prefix string) ([]record.Item, int64, error) {
	if err := kind.Valid(); err != nil {
		return nil, 0, err
	}
	start, end := s.keys.records(kind, prefix)
	kvs, rev, err := s.scan(ctx, "list "+string(kind), start, end)
	if err != nil {
		return nil, 0, err
	}
	items, err := s.items(kvs)
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
	start, end := s.keys.records(kind, prefix)
	order := clientv3.SortNone // etcd's own order: ascending by key
	if reverse {
		order = clientv3.SortDescend
	}
	if after != "" {
		at := s.keys.record(record.Key{Kind: kind, ID: after})
		if reverse {
			end = min(end, at)
		} else {
			start = max(start, at+"\x00")
		}
	}
	if start >= end {
		return nil, nil
	}
	what := "page of " + string(kind)
	if reverse {
		var err error
		if start, err = s.tail(ctx, what, start, end, limit); err != nil {
			return nil, err
		}
	}
	var resp *clientv3.GetResponse
	err := s.do(ctx, what, func(ctx context.Context) (err error) {
		resp, err = s.client.Get(ctx, start, clientv3.WithRange(end), clientv3.WithLimit(int64(limit)),
			clientv3.WithSort(clientv3.SortByKey, order))
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.items(resp.Kvs)
}

// scan reads a range in pages, all at the revision of the first, in order of key.
func (s *Store) scan(
	ctx context.Context, what, start, end string, opts ...clientv3.OpOption,
) (kvs []*mvccpb.KeyValue, rev int64, err error) {
	for range scanTries {
		kvs, rev, err = s.scanOnce(ctx, what, start, end, opts)
		if !errors.Is(err, rpctypes.ErrCompacted) {
			break
		}
	}
	return kvs, rev, err
}

func (s *Store) scanOnce(
	ctx context.Context, what, start, end string, opts []clientv3.OpOption,
) (kvs []*mvccpb.KeyValue, rev int64, err error) {
	limit, size := maxPage/4, 0
	for {
		var resp *clientv3.GetResponse
		page := append([]clientv3.OpOption{
			clientv3.WithRange(end), clientv3.WithLimit(int64(limit)), clientv3.WithRev(rev),
		}, opts...)
		if err := s.do(ctx, what, func(ctx context.Context) (err error) {
			resp, err = s.client.Get(ctx, start, page...)
			return err
		}); err != nil {
			return nil, 0, err
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		kvs = append(kvs, resp.Kvs...)
		if !resp.More || len(resp.Kvs) == 0 {
			return kvs, rev, nil
		}
		for _, kv := range resp.Kvs {
			size += len(kv.Value) + len(kv.Key)
		}
		limit = min(max(pageBytes*len(kvs)/size, 8), maxPage)
		start = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func (s *Store) items(kvs []*mvccpb.KeyValue) ([]record.Item, error) {
	items := make([]record.Item, 0, len(kvs))
	for _, kv := range kvs {
		k, ok := s.keys.parse(string(kv.Key))
		if !ok {
			s.log.Warn("store holds a key that is no record; ignored", "key", string(kv.Key))
			continue
		}
		item, err := s.item(k, kv)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

// item unpacks a stored value into memory of its own.
func (s *Store) item(k record.Key, kv *mvccpb.KeyValue) (record.Item, error) {
	value, err := s.packer.Unpack(kv.Value)
	if err != nil {
		return record.Item{}, fmt.Errorf("record %s at revision %d: %w", k, kv.ModRevision, err)
	}
	return record.Item{Key: k, Value: value, Rev: kv.ModRevision}, nil
}

// tail narrows [start, end) to a later start that still leaves at least limit keys, unless there are few
// anyway: etcd reads a whole range before it sorts it downwards, but counts one from its index alone.
// It bisects on the first byte that can differ, then on the next, and so on.
func (s *Store) tail(ctx context.Context, what, start, end string, limit int) (string, error) {
	const few = 256
	n, err := s.count(ctx, what, start, end)
	for pos := commonPrefix(start, end); err == nil && n > int64(limit+few) && pos < len(end)+8; pos++ {
		low, high := 0, 256 // the largest byte at pos that leaves enough keys is in [low, high)
		for err == nil && high-low > 1 {
			mid := (low + high) / 2
			at := padded(start, pos) + string([]byte{byte(mid)})
			var m int64
			if at < end {
				m, err = s.count(ctx, what, at, end)
			}
			if m >= int64(limit) {
				low, n = mid, m
			} else {
				high = mid
			}
		}
		start = max(start, padded(start, pos)+string([]byte{byte(low)}))
	}
	return start, err
}

// padded is the first n bytes of s, filled up with zero bytes.
func padded(s string, n int) string {
	if len(s) >= n {
		return s[:n]
	}
	return s + string(bytes.Repeat([]byte{0}, n-len(s)))
}

func commonPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func (s *Store) count(ctx context.Context, what, start, end string) (n int64, err error) {
	err = s.do(ctx, what, func(ctx context.Context) error {
		resp, err := s.client.Get(ctx, start, clientv3.WithRange(end), clientv3.WithCountOnly())
		if err == nil {
			n = resp.Count
		}
		return err
	})
	return n, err
}
