package record_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/murmuration/murmuration/internal/memstore"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/rollout"
)

// stored is what comes back when a state was stored.
func stored(t interface {
	Helper()
	Fatal(...any)
}, s rollout.State) rollout.State {
	t.Helper()
	value, err := record.Encode(record.NewRollout(s))
	if err != nil {
		t.Fatal(err)
	}
	form, err := record.Decode[record.Rollout](value)
	if err != nil {
		t.Fatal(err)
	}
	return form.RolloutState()
}

// TestRolloutEveryField fails when the core's state has a field its stored mirror lacks.
func TestRolloutEveryField(t *testing.T) {
	var s rollout.State
	fill(reflect.ValueOf(&s).Elem(), &counting{})
	if diff := cmp.Diff(s, stored(t, s)); diff != "" {
		t.Errorf("stored state (-want +got):\n%s", diff)
	}
}

func TestRolloutLossless(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s rollout.State
		fill(reflect.ValueOf(&s).Elem(), drawn{t})
		if diff := cmp.Diff(s, stored(t, s), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("stored state (-want +got):\n%s", diff)
		}
	})
}

// TestRolloutFits checks that a rollout over 10,000 hosts can be stored even when ids and times are noise.
func TestRolloutFits(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{})
	var s rollout.State
	effect := rollout.Effect{Key: "k", Kind: rollout.Retarget}
	for i := range 10_000 {
		id := fmt.Sprintf("%016x%016x", rng.Uint64(), rng.Uint64())
		s.Plan.Hosts = append(s.Plan.Hosts, rollout.Host{ID: id, Rack: fmt.Sprint("rack-", i%250), DC: "dc-1", Previous: "r1"})
		since := time.Unix(1_800_000_000, int64(rng.Uint64()>>20))
		s.Hosts = append(s.Hosts, rollout.HostState{Phase: rollout.StagedHost, Since: since})
		effect.Hosts = append(effect.Hosts, id)
	}
	s.Outbox = []rollout.Effect{effect}
	value, err := record.Encode(record.NewRollout(s))
	if err != nil {
		t.Fatal(err)
	}
	packed, err := packer(t).PackOps([]record.Op{record.Put(record.Key{Kind: record.KindRollout, ID: "web/1"}, value, 0)})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, packed %d", len(value), len(packed[0].Value))
}

func packer(t testing.TB) *record.Packer {
	t.Helper()
	p, err := record.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestPackBounds(t *testing.T) {
	p := packer(t)
	if _, err := p.Pack(make([]byte, record.MaxRaw+1)); err == nil {
		t.Error("a value above MaxRaw was packed")
	}
	packed, err := p.Pack(make([]byte, record.MaxRaw))
	if err != nil || len(packed) > 1<<16 {
		t.Errorf("%d zero bytes packed into %d, %v", record.MaxRaw, len(packed), err)
	}
	if value, err := p.Unpack(packed); err != nil || len(value) != record.MaxRaw {
		t.Errorf("unpacked %d bytes, %v", len(value), err)
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := enc.EncodeAll(make([]byte, 2*record.MaxRaw), nil)
	if value, err := p.Unpack(bomb); err == nil {
		t.Errorf("a bomb of %d bytes was unpacked into %d", len(bomb), len(value))
	}
	if small, err := p.Pack([]byte(`{"v":1}`)); err != nil || string(small) != `{"v":1}` {
		t.Errorf("a small value is stored as %q, %v; it must stay readable", small, err)
	}
}

func FuzzPack(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte(`{"v":1,"body":{}}`))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd})
	f.Add(bytes.Repeat([]byte("host"), 4<<10))
	p := packer(f)
	f.Fuzz(func(t *testing.T, value []byte) {
		if unpacked, err := p.Unpack(value); err == nil && len(unpacked) > record.MaxRaw {
			t.Errorf("%d bytes unpacked into %d", len(value), len(unpacked))
		}
		packed, err := p.Pack(value)
		if err != nil {
			t.Fatal(err)
		}
		unpacked, err := p.Unpack(packed)
		if err != nil || !bytes.Equal(unpacked, value) {
			t.Errorf("%q came back as %q, %v", value, unpacked, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"v":1,"body":{"term":1,"state":{"hosts":[{"i":"a"}],"host_states":[{"p":"staged","s":1}]}}}`))
	f.Add([]byte(`{"v":1,"body":{"state":{"steps":[{"dial":70000}]}}}`))
	f.Add([]byte(`{"v":9}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		form, err := record.Decode[record.Rollout](value)
		if err != nil {
			return
		}
		if _, err := record.Encode(form); err != nil {
			t.Errorf("decoded but not encoded again: %v", err)
		}
	})
}

func FuzzKeyValid(f *testing.F) {
	for _, id := range []string{"web", "web/1", "", "/", "a//b", "../a", "a/..", "a/./b", "ä", "a b", "a\x00", "..."} {
		f.Add("service", id)
	}
	f.Add("ser/vice", "a")
	f.Add("", "a")
	f.Fuzz(func(t *testing.T, kind, id string) {
		k := record.Key{Kind: record.Kind(kind), ID: id}
		if k.Valid() != nil {
			return
		}
		if path.Clean(id) != id || path.IsAbs(id) || strings.HasPrefix(id, "..") && path.Clean("/"+id) != "/"+id {
			t.Errorf("id %q is valid but no clean relative path", id)
		}
		if strings.Contains(kind, "/") || kind == "" || len(id) > 512 {
			t.Errorf("key %+v is valid", k)
		}
		for _, c := range []byte(kind + id) {
			if c <= ' ' || c > '~' {
				t.Errorf("key %+v is valid with byte %#x", k, c)
			}
		}
	})
}

func TestKeyValid(t *testing.T) {
	for id, want := range map[string]bool{
		"web": true, "web/0199": true, "a.b-c_d": true, "...": true, strings.Repeat("x", 512): true,
		"": false, "/": false, "a/": false, "/a": false, "a//b": false, ".": false, "a/..": false, "a b": false,
		"a\n": false, "ä": false, strings.Repeat("x", 513): false,
	} {
		if err := (record.Key{Kind: record.KindService, ID: id}).Valid(); (err == nil) != want {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

var web = record.Key{Kind: record.KindService, ID: "web"}

func TestModify(t *testing.T) {
	s := memstore.New()
	defer s.Close()
	touch := func(service *record.Service) error { service.Stable = "r2"; return nil }
	if _, err := record.Modify(t.Context(), s, web, touch); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("Modify of nothing: %v, want ErrNotFound", err)
	}
	made, err := record.Upsert(t.Context(), s, web, touch)
	if err != nil {
		t.Fatalf("Upsert: %v", err)
	}
	same, err := record.Modify(t.Context(), s, web, func(*record.Service) error { return record.ErrUnchanged })
	if err != nil || same != made {
		t.Errorf("Modify without change = %d, %v; want %d", same, err, made)
	}
	refused := errors.New("refused")
	if _, err := record.Modify(t.Context(), s, web, func(*record.Service) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("Modify = %v, want the function's error", err)
	}
	if _, err := record.Create(t.Context(), s, web, record.Service{}); !errors.Is(err, record.ErrConflict) {
		t.Errorf("Create of what exists: %v, want ErrConflict", err)
	}
	entries, _, err := record.List[record.Service](t.Context(), s, record.KindService, "")
	want := []record.Entry[record.Service]{{Key: web, Rev: made, Form: record.Service{Stable: "r2"}}}
	if diff := cmp.Diff(want, entries); diff != "" || err != nil {
		t.Errorf("List: %v (-want +got):\n%s", err, diff)
	}
}

// TestModifyContended changes the record behind Modify's back, once and then always.
func TestModifyContended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		defer s.Close()
		if _, err := record.Create(t.Context(), s, web, record.Service{}); err != nil {
			t.Fatal(err)
		}
		tries, rivals := 0, 1
		change := func(service *record.Service) error {
			if tries++; tries <= rivals {
				if _, err := record.Replace(t.Context(), s, web, record.Service{Previous: "rival"}, record.Any); err != nil {
					t.Fatal(err)
				}
			}
			service.Stable = "mine"
			return nil
		}
		if _, err := record.Modify(t.Context(), s, web, change); err != nil || tries != 2 {
			t.Errorf("Modify after %d tries: %v", tries, err)
		}
		got, _, err := record.Get[record.Service](t.Context(), s, web)
		if err != nil || got.Stable != "mine" || got.Previous != "rival" {
			t.Errorf("record %+v, %v: a change got lost", got, err)
		}
		tries, rivals = 0, 1_000
		if _, err := record.Modify(t.Context(), s, web, change); !errors.Is(err, record.ErrConflict) || tries != 20 {
			t.Errorf("Modify after %d tries: %v, want ErrConflict after 20", tries, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		tries = 0
		_, err = record.Modify(ctx, s, web, func(service *record.Service) error {
			defer cancel()
			return change(service)
		})
		if !errors.Is(err, context.Canceled) || tries != 1 {
			t.Errorf("Modify after %d tries: %v, want it to end with its context", tries, err)
		}
	})
}
