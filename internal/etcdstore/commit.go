package etcdstore

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/murmuration/murmuration/internal/record"
)

// Commit implements record.Store.
func (s *Store) Commit(ctx context.Context, ops ...record.Op) (int64, error) {
	return s.commit(ctx, nil, ops)
}

// commit is one transaction: the conditions (and the proof of leadership), the writes, and, when a condition
// does not hold, reads that tell which.
func (s *Store) commit(ctx context.Context, fence *leadership, ops []record.Op) (int64, error) {
	packed, err := s.packer.PackOps(ops)
	if err != nil {
		return 0, err
	}
	txn := s.transaction(fence, packed)
	what := "commit " + packed[0].Key.String()
	if len(packed) > 1 {
		what = fmt.Sprintf("%s and %d more", what, len(packed)-1)
	}
	var resp *clientv3.TxnResponse
	err = s.do(ctx, what, func(ctx context.Context) (err error) {
		resp, err = s.client.Txn(ctx).If(txn.conditions...).Then(txn.writes...).Else(txn.reads...).Commit()
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case !resp.Succeeded:
		return 0, fmt.Errorf("%s: %w", what, txn.refused(resp))
	}
	return resp.Header.Revision, nil
}

// transaction is a commit as etcd wants it. Checked is parallel to reads.
type transaction struct {
	fence      *leadership
	conditions []clientv3.Cmp
	writes     []clientv3.Op
	reads      []clientv3.Op
	checked    []record.Op
}

func (s *Store) transaction(fence *leadership, ops []record.Op) transaction {
	t := transaction{fence: fence}
	if fence != nil {
		t.conditions = append(t.conditions, clientv3.Compare(clientv3.CreateRevision(fence.key), "=", int64(fence.term)))
		t.reads = append(t.reads, clientv3.OpGet(fence.key))
	}
	for _, op := range ops {
		key := s.keys.record(op.Key)
		if op.Conditional() {
			// A key that does not exist compares as revision 0.
			t.conditions = append(t.conditions, clientv3.Compare(clientv3.ModRevision(key), "=", op.If))
			t.reads = append(t.reads, clientv3.OpGet(key, clientv3.WithKeysOnly()))
			t.checked = append(t.checked, op)
		}
		switch {
		case op.Delete:
			t.writes = append(t.writes, clientv3.OpDelete(key))
		case op.Value != nil:
			t.writes = append(t.writes, clientv3.OpPut(key, string(op.Value)))
		}
	}
	return t
}

// refused says which condition did not hold.
func (t transaction) refused(resp *clientv3.TxnResponse) error {
	answers := resp.Responses
	if t.fence != nil {
		kvs := answers[0].GetResponseRange().Kvs
		if len(kvs) == 0 || kvs[0].CreateRevision != int64(t.fence.term) {
			t.fence.lose()
			return t.fence.notHeld()
		}
		answers = answers[1:]
	}
	for i, op := range t.checked {
		var rev int64
		if kvs := answers[i].GetResponseRange().Kvs; len(kvs) > 0 {
			rev = kvs[0].ModRevision
		}
		if rev != op.If {
			return fmt.Errorf("%s is at revision %d, not %d: %w", op.Key, rev, op.If, record.ErrConflict)
		}
	}
	return record.ErrConflict
}
