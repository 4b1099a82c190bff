package flagd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/anishathalye/porcupine"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/etcdstore"
	"github.com/murmuration/murmuration/internal/etcdstore/embedded"
	"github.com/murmuration/murmuration/internal/record"
)

// etcd is one embedded server that can be stopped and started.
type etcd struct {
	tb     testing.TB
	dir    string
	server *embedded.Server
}

func startEtcd(t *testing.T) *etcd {
	if testing.Short() {
		t.Skip("starts etcd")
	}
	e := &etcd{tb: t, dir: t.TempDir()}
	if err := os.Chmod(e.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	e.start()
	t.Cleanup(func() { e.server.Stop() })
	return e
}

func (e *etcd) start() {
	e.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	if e.server, err = embedded.Start(ctx, embedded.Config{Dir: e.dir, NoSync: true}); err != nil {
		e.tb.Fatal(err)
	}
}

func (e *etcd) open(configure func(*etcdstore.Config)) record.Store {
	e.tb.Helper()
	cfg := etcdstore.Config{Endpoints: e.server.Endpoints(), OpTimeout: time.Second}
	configure(&cfg)
	store, err := etcdstore.Open(e.tb.Context(), cfg)
	if err != nil {
		e.tb.Fatal(err)
	}
	e.tb.Cleanup(func() { store.Close() })
	return store
}

// TestEtcdAway: while etcd is stopped reads go on and writes say so; afterwards everything goes on by itself.
func TestEtcdAway(t *testing.T) {
	t.Parallel()
	e := startEtcd(t)
	r := worldOver(t, e.open(func(*etcdstore.Config) {})).server()
	f := r.put(boolFlag("a", 10000))
	l := r.listen("/v1/stream")
	l.want("hello")
	l.want("reset")
	e.server.Stop()
	if a := r.do("POST", ofrepFlagPrefix+"a", `{}`); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	f.Dial = 1
	if err := r.tryPut(f); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("%v", err)
	}
	e.start()
	until(t, "writes work again", func() bool {
		err := r.tryPut(f)
		return err == nil || connect.CodeOf(err) == connect.CodeAborted // the write whose answer was lost was done
	})
	if d := l.want("delta").delta(t); d.Flags[0].Dial != 1 {
		t.Errorf("%+v", d)
	}
}

// gatedStore is a store whose watch can be held up.
type gatedStore struct {
	record.Store
	gate sync.RWMutex
}

func (s *gatedStore) Watch(ctx context.Context, kinds []record.Kind, fn func(record.Batch) error) error {
	return s.Store.Watch(ctx, kinds, func(b record.Batch) error {
		if !slices.Contains(kinds, record.KindFlag) {
			return fn(b)
		}
		s.gate.RLock()
		defer s.gate.RUnlock()
		return fn(b)
	})
}

// TestEtcdWatchLosesItsPlace: a watcher too far behind starts over, and what was deleted meanwhile is gone.
func TestEtcdWatchLosesItsPlace(t *testing.T) {
	t.Parallel()
	e := startEtcd(t)
	store := &gatedStore{Store: e.open(func(c *etcdstore.Config) { c.WatchBuffer = 1 })}
	r := worldOver(t, store).server()
	gone := r.put(boolFlag("gone", 1))
	store.gate.Lock()
	write := func(key string) {
		_, ops, err := flagOps("me", whatPut, "", boolFeature(key), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Commit(t.Context(), ops...); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		write(fmt.Sprintf("f%02d", i))
	}
	if _, err := store.Commit(t.Context(), record.Drop(record.FlagKey(gone.Key), record.Any)); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		write(fmt.Sprintf("g%02d", i))
	}
	store.gate.Unlock()
	until(t, "the server has what the store has", func() bool {
		st := r.view.load()
		_, still := st.flags["gone"]
		return st.set.Len() == 40 && !still
	})
}

// turnOut is how a turn ended; an unknown one may have happened or not.
type turnOut struct {
	unknown         bool
	version, before int64
}

// flagState is the model's flag.
type flagState struct{ version, dial int64 }

// turns says which histories of one flag are right: every acknowledged turn is the next version, and knows the dial it
// replaced.
var turns = porcupine.NondeterministicModel{
	Init: func() []any { return []any{flagState{1, 0}} },
	Step: func(state, input, output any) []any {
		s, out := state.(flagState), output.(turnOut)
		next := flagState{s.version + 1, input.(int64)}
		switch {
		case out.unknown:
			return []any{s, next}
		case out.version == next.version && out.before == s.dial:
			return []any{next}
		}
		return nil
	},
}

// TestEtcdRestartLosesNoWrite: every write that was acknowledged is there after etcd was restarted under the writers.
func TestEtcdRestartLosesNoWrite(t *testing.T) {
	t.Parallel()
	e := startEtcd(t)
	r := worldOver(t, e.open(func(*etcdstore.Config) {})).server()
	r.put(boolFlag("a", 0))
	const writers, each = 3, 12
	var mu sync.Mutex
	var history []porcupine.Operation
	var wg sync.WaitGroup
	begun := time.Now()
	half := make(chan struct{}, writers)
	resume := make(chan struct{})
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if i == each/2 {
					half <- struct{}{}
				}
				if i == each/2+1 {
					<-resume
				}
				dial := int32(w*1000 + i + 1)
				op := porcupine.Operation{ClientId: w, Input: int64(dial), Call: int64(time.Since(begun))}
				resp, err := r.api().TurnFlag(t.Context(), connect.NewRequest(&murmurv1.TurnFlagRequest{Key: "a", Dial: dial}))
				op.Return = int64(time.Since(begun))
				switch {
				case err == nil:
					op.Output = turnOut{version: int64(resp.Msg.Flag.Version), before: int64(resp.Msg.Before)}
				case connect.CodeOf(err) == connect.CodeUnavailable || connect.CodeOf(err) == connect.CodeAborted:
					op.Output, op.Return = turnOut{unknown: true}, int64(time.Hour)
				default:
					t.Error(err)
					return
				}
				mu.Lock()
				history = append(history, op)
				mu.Unlock()
			}
		})
	}
	for range writers {
		<-half
	}
	e.server.Stop() // under the writers' next turn
	e.start()
	close(resume)
	wg.Wait()
	for i := range history {
		history[i].ClientId = i // an unknown turn overlaps with its client's next ones
	}
	model := turns.ToModel()
	if result := porcupine.CheckOperationsTimeout(model, history, patience); result != porcupine.Ok {
		t.Fatalf("the history is %s: %+v", result, history)
	}
	form, _, err := record.Get[record.Flag](t.Context(), r.w.store, record.FlagKey("a"))
	if err != nil && !errors.Is(err, record.ErrUnavailable) {
		t.Fatal(err)
	}
	until(t, "the server serves the last write", func() bool { return r.view.load().flags["a"].def.Version == form.Version })
}

// boolFeature is a boolean flag, whole, as a definition.
func boolFeature(key string) feature.Flag {
	return feature.Flag{
		Key: key, Type: feature.Boolean, On: "on", Off: "on", Version: 1,
		Variants: []feature.Variant{{Name: "on", Value: []byte("true")}},
	}
}
