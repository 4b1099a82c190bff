package flagd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

const (
	// killBatch is how many flags one transaction kills or restores.
	killBatch = 40
	// killTimeout bounds how long a kill tries to win.
	killTimeout = 30 * time.Second
	// defaultConfirm and maxConfirm bound how long a kill waits for clients.
	defaultConfirm = time.Second
	maxConfirm     = 10 * time.Second
)

// KillFlags turns flags off, whatever their definitions say and whoever else writes.
func (a *flagAPI) KillFlags(ctx context.Context, req *connect.Request[murmurv1.KillFlagsRequest]) (*connect.Response[murmurv1.KillFlagsResponse], error) {
	m := req.Msg
	waiter := a.s.hub.await(time.Now())
	defer a.s.hub.finish(waiter)
	write, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	kill := feature.Kill{By: identity.CallerFrom(ctx).Name, Why: wire.Text(m.Reason, wire.MaxText), When: time.Now().UTC().Truncate(time.Microsecond)}
	keys, rev, err := a.forEach(write, m.Key, m.Tag, func(batch []string) (int64, error) {
		return a.killOnce(write, batch, kill)
	})
	if err != nil {
		return nil, err
	}
	a.s.hub.expect(waiter, rev)
	if rev != 0 {
		a.confirm(ctx, waiter, m.WaitMs)
	}
	total, confirmed := a.s.hub.finish(waiter)
	return connect.NewResponse(&murmurv1.KillFlagsResponse{
		Keys: keys, Revision: rev, Clients: int32(total), Confirmed: int32(confirmed),
	}), nil
}

// confirm waits until all clients have confirmed, or for as long as was asked for.
func (a *flagAPI) confirm(ctx context.Context, w *waiter, waitMs int32) {
	wait := time.Duration(waitMs) * time.Millisecond
	switch {
	case waitMs < 0:
		return
	case waitMs == 0:
		wait = defaultConfirm
	}
	timer := time.NewTimer(min(wait, maxConfirm))
	defer timer.Stop()
	select {
	case <-w.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// RestoreFlags ends kills; nothing else of the flags changes.
func (a *flagAPI) RestoreFlags(ctx context.Context, req *connect.Request[murmurv1.RestoreFlagsRequest]) (*connect.Response[murmurv1.RestoreFlagsResponse], error) {
	m := req.Msg
	write, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	keys, _, err := a.forEach(write, m.Key, m.Tag, func(batch []string) (int64, error) {
		return a.restoreOnce(write, batch, m.Reason)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.RestoreFlagsResponse{Keys: keys}), nil
}

// forEach does one act on the flag of a key, or on all of a tag, some at a time, each time until it wins. It returns the
// last revision and waits until this server serves it.
func (a *flagAPI) forEach(ctx context.Context, key, tag string, act func(batch []string) (int64, error)) ([]string, int64, error) {
	keys, err := a.named(ctx, key, tag)
	if err != nil {
		return nil, 0, err
	}
	var done []string
	var last int64
	for batch := range slices.Chunk(keys, killBatch) {
		rev, err := a.insist(ctx, batch, act)
		if err != nil {
			if len(done) > 0 {
				err = fmt.Errorf("%d of %d flags are done (%s), then: %w", len(done), len(keys), strings.Join(done, ", "), err)
			}
			return nil, 0, err
		}
		done, last = append(done, batch...), max(last, rev)
	}
	a.s.view.reach(ctx, last, a.s.cfg.pace.catchUp)
	return done, last, nil
}

// insist repeats an act until no other writer is in its way. What is too large for one transaction is halved.
func (a *flagAPI) insist(ctx context.Context, batch []string, act func([]string) (int64, error)) (int64, error) {
	for try := 0; ; try++ {
		rev, err := act(batch)
		switch {
		case err == nil:
			return rev, nil
		case errors.Is(err, record.ErrConflict) && ctx.Err() == nil:
			sleep(ctx, time.Duration(min(try, 10))*time.Millisecond)
		case errors.Is(err, errTooMuch) && len(batch) > 1:
			half := len(batch) / 2
			if _, err := a.insist(ctx, batch[:half], act); err != nil {
				return 0, err
			}
			return a.insist(ctx, batch[half:], act)
		default:
			return 0, err
		}
	}
}

// errTooMuch is a batch that does not fit into one transaction.
var errTooMuch = errors.New("too large for one transaction")

// named are the keys that a kill or restore is about. Records that cannot be read are found too.
func (a *flagAPI) named(ctx context.Context, key, tag string) ([]string, error) {
	if (key == "") == (tag == "") {
		return nil, wire.Invalid("name either a key or a tag")
	}
	if key != "" {
		if err := validKey(key); err != nil {
			return nil, err
		}
		return []string{key}, nil
	}
	items, _, err := a.s.cfg.Store.List(ctx, record.KindFlag, "")
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, item := range items {
		if slices.Contains(tagsIn(item.Value), tag) {
			keys = append(keys, item.Key.ID)
		}
	}
	if len(keys) == 0 {
		return nil, wire.NotFound("no flag has the tag %q", tag)
	}
	return keys, nil
}

// rawFlag is what kills need of a record, readable whatever version it is of.
type rawFlag struct {
	Tags    []string        `json:"tags"`
	Killed  json.RawMessage `json:"killed"`
	Version uint64          `json:"version"`
}

func tagsIn(value []byte) []string {
	var e struct {
		Body rawFlag `json:"body"`
	}
	if json.Unmarshal(value, &e) != nil {
		return nil
	}
	return e.Body.Tags
}

// killOnce kills a batch in one transaction. Flags that are killed already stay as they are.
func (a *flagAPI) killOnce(ctx context.Context, batch []string, kill feature.Kill) (int64, error) {
	var ops []record.Op
	var killed []string
	var newest int64
	for _, key := range batch {
		item, err := a.s.cfg.Store.Get(ctx, record.FlagKey(key))
		if errors.Is(err, record.ErrNotFound) {
			return 0, wire.NotFound("there is no flag %q", key)
		}
		if err != nil {
			return 0, err
		}
		newest = max(newest, item.Rev)
		more, err := killOps(item, kill)
		if err != nil {
			return 0, err
		}
		if len(more) > 0 {
			ops, killed = append(ops, more...), append(killed, key)
		}
	}
	if len(ops) == 0 {
		return newest, nil
	}
	return a.commitBatch(ctx, whatKill, kill.Why, killed, &kill, ops)
}

// killOps are the ops that kill one flag; none if it is killed already.
func killOps(item record.Item, kill feature.Kill) ([]record.Op, error) {
	form, err := record.Decode[record.Flag](item.Value)
	if err != nil || form.Key != item.Key.ID {
		return killRaw(item, kill)
	}
	if form.Killed != nil {
		return nil, nil
	}
	f := form.Feature()
	f.Killed, f.Version = &kill, f.Version+1
	_, ops, err := flagOps(kill.By, whatKill, kill.Why, f, item.Rev)
	return ops, err
}

// killRaw kills a flag whose record this program cannot read, for example because a newer one wrote it, and leaves the
// rest of the record as it is.
func killRaw(item record.Item, kill feature.Kill) ([]record.Op, error) {
	var envelope, body map[string]json.RawMessage
	var known rawFlag
	err := json.Unmarshal(item.Value, &envelope)
	if err == nil {
		err = errors.Join(json.Unmarshal(envelope["body"], &body), json.Unmarshal(envelope["body"], &known))
	}
	if err != nil || body == nil {
		// Nothing in it can be kept. What is left is a flag that is off.
		f := leastFlag(feature.Flag{Key: item.Key.ID})
		f.Killed, f.Version = &kill, uint64(item.Rev)
		_, ops, err := flagOps(kill.By, whatKill, kill.Why, f, item.Rev)
		return ops, err
	}
	if len(known.Killed) > 0 && string(known.Killed) != "null" {
		return nil, nil
	}
	version := known.Version + 1
	body["killed"] = mustJSON(record.FlagKill(kill))
	body["version"] = mustJSON(version)
	envelope["body"] = mustJSON(body)
	history, err := record.PutForm(record.FlagVersionKey(item.Key.ID, version), record.FlagVersion{
		Flag: record.FlagDef{Key: item.Key.ID, Version: version, Killed: new(record.FlagKill(kill))},
		What: whatKill, By: kill.By, Reason: kill.Why, At: kill.When,
	}, record.Any)
	return []record.Op{record.Put(item.Key, mustJSON(envelope), item.Rev), history}, err
}

// restoreOnce ends the kills of a batch in one transaction.
func (a *flagAPI) restoreOnce(ctx context.Context, batch []string, reason string) (int64, error) {
	var ops []record.Op
	var restored []string
	var newest int64
	for _, key := range batch {
		cur, err := a.existing(ctx, key)
		if err != nil {
			return 0, err
		}
		newest = max(newest, cur.rev)
		if cur.def.Killed == nil {
			continue
		}
		f := cur.def
		f.Killed, f.Version = nil, f.Version+1
		_, more, err := flagOps(identity.CallerFrom(ctx).Name, whatRestore, reason, f, cur.rev)
		if err != nil {
			return 0, err
		}
		ops, restored = append(ops, more...), append(restored, key)
	}
	if len(ops) == 0 {
		return newest, nil
	}
	return a.commitBatch(ctx, whatRestore, reason, restored, nil, ops)
}

// batchAudit is what the audit record of a kill or restore shows.
type batchAudit struct {
	Flags  []string      `json:"flags"`
	Killed *feature.Kill `json:"killed"`
}

// commitBatch writes the ops of several flags with one audit record.
func (a *flagAPI) commitBatch(ctx context.Context, what, reason string, keys []string, kill *feature.Kill, ops []record.Op) (int64, error) {
	if !fits(ops) && len(keys) > 1 {
		return 0, errTooMuch
	}
	object := "flag/" + keys[0]
	if len(keys) > 1 {
		object = fmt.Sprintf("flag/%s and %d more", keys[0], len(keys)-1)
	}
	return a.s.cfg.Authority.Commit(ctx, "flag."+what, object, reason, nil, batchAudit{keys, kill}, ops...)
}

// fits reports whether ops surely fit into one transaction, beside an audit record, even if nothing compresses.
func fits(ops []record.Op) bool {
	size := 0
	for _, op := range ops {
		size += len(op.Value)
	}
	return size < record.MaxCommit*3/4
}
