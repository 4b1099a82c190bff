package flagd

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/memstore"
	"github.com/murmuration/murmuration/internal/record"
)

func unavailable(memstore.Op) error { return record.ErrUnavailable }

// TestStoreDown: reads go on, writes say why they cannot.
func TestStoreDown(t *testing.T) {
	r := newWorld(t).server()
	f := r.put(boolFlag("a", 10000))
	r.w.mem.Fail(unavailable)
	for range 3 {
		if a := r.do("POST", ofrepFlagPrefix+"a", `{}`); a.status != 200 || !strings.Contains(a.body, `"value":true`) {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	l := r.listen("/v1/stream")
	l.want("hello")
	l.want("reset")
	f.Dial = 1
	_, killErr := r.api().KillFlags(t.Context(), connect.NewRequest(&murmurv1.KillFlagsRequest{Key: "a"}))
	for _, err := range []error{r.tryPut(f), killErr} {
		if connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "store") {
			t.Errorf("%v", err)
		}
	}
	r.w.mem.Fail(nil)
	r.put(f)
	l.want("delta")
}

// TestReset: a watch that lost its place delivers everything anew; what was deleted meanwhile is noticed, and clients
// get a delta and not everything.
func TestReset(t *testing.T) {
	r := newWorld(t).server()
	r.put(boolFlag("keeps", 1))
	gone := r.put(boolFlag("goes", 1))
	l := r.listen("/v1/stream")
	l.want("hello")
	l.want("reset")
	st := r.view.load()
	items, _, err := r.w.store.List(t.Context(), record.KindFlag, "keeps")
	if err != nil {
		t.Fatal(err)
	}
	whole := record.Batch{Rev: st.rev + 10, Reset: true, Changes: []record.Change{{Item: items[0]}}}
	r.view.apply(whole)
	d := l.want("delta").delta(t)
	if len(d.Flags) != 0 || len(d.DroppedFlags) != 1 || d.DroppedFlags[0] != gone.Key {
		t.Errorf("%+v", d)
	}
	if _, ok := r.view.load().set.Flag("goes"); ok {
		t.Error("the deleted flag is still there")
	}
	print := r.view.load().print
	whole.Rev++
	r.view.apply(whole)
	if got := r.view.load(); got.print != print || got.newest != st.rev+10 {
		t.Errorf("a reset without a change changed something: newest %d", got.newest)
	}
}

// TestStoreWentBack: a store restored from a backup makes every client start over.
func TestStoreWentBack(t *testing.T) {
	r := newWorld(t).server()
	f := r.put(boolFlag("a", 1))
	f.Dial = 2
	r.put(f)
	l := r.listen("/v1/stream")
	l.want("hello")
	l.want("reset")
	r.view.apply(record.Batch{Rev: 3, Reset: true})
	if d := l.want("reset").delta(t); len(d.Flags) != 0 || d.Revision != 3 {
		t.Errorf("%+v", d)
	}
}

// TestPrints: equal content has equal fingerprints however it came about, other content another.
func TestPrints(t *testing.T) {
	item := func(key string, rev int64) record.Change {
		_, ops, err := flagOps("me", whatPut, "", feature.Flag{
			Key: key, Type: feature.Boolean, On: "on", Off: "on", Version: uint64(rev),
			Variants: []feature.Variant{{Name: "on", Value: []byte("true")}},
		}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return record.Change{Item: record.Item{Key: record.FlagKey(key), Value: ops[0].Value, Rev: rev}}
	}
	gone := func(key string, rev int64) record.Change {
		return record.Change{Item: record.Item{Key: record.FlagKey(key), Rev: rev}, Deleted: true}
	}
	log := slog.New(slog.DiscardHandler)
	one, two, three := newView(log), newView(log), newView(log)
	one.apply(record.Batch{Rev: 1, Reset: true})
	one.apply(record.Batch{Rev: 2, Changes: []record.Change{item("a", 2), item("b", 2)}})
	three.apply(record.Batch{Rev: 2, Reset: true, Changes: []record.Change{item("a", 2), item("b", 2)}})
	if one.load().print != three.load().print {
		t.Error("the same content differs")
	}
	one.apply(record.Batch{Rev: 3, Changes: []record.Change{gone("b", 3)}})
	two.apply(record.Batch{Rev: 9, Reset: true, Changes: []record.Change{item("a", 2)}})
	if one.load().print != two.load().print {
		t.Error("the same content differs by how it came about")
	}
	// The lagging server three has the same newest change as server two and other content.
	if two.load().newest != three.load().newest || two.load().print == three.load().print {
		t.Error("different content looks the same")
	}
}

// TestRestartWithoutStore: a server that starts while the store is away serves from its disk copy, to whom it knew.
func TestRestartWithoutStore(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	inDir := func(c *Config) { c.Dir, c.pace.stale = dir, time.Millisecond }
	first := w.server(inDir)
	f := boolFlag("a", 10000)
	f.Tags = []string{"t"}
	first.put(f)
	first.put(boolFlag("hot", 10000))
	first.kill("hot")
	first.do("POST", ofrepFlagPrefix+"a", `{}`)
	want := first.do("GET", "/v1/snapshot", "").body
	first.stop()

	// The second server's store never answers: neither its reads nor its watch.
	w.mem.Fail(unavailable)
	real := w.store
	w.store = silentStore{real}
	second := w.server(inDir)
	if got := second.do("GET", "/v1/snapshot", ""); got.status != 200 || got.body != want || got.header.Get("X-Murmur-Age") == "" {
		t.Fatalf("%d %s\nwant %s", got.status, got.body, want)
	}
	if a := second.do("POST", ofrepFlagPrefix+"hot", `{}`); !strings.Contains(a.body, `"value":false`) {
		t.Errorf("%s", a.body)
	}
	if a := second.try("GET", "/readyz", nil); a.status != 200 || a.header.Get("X-Murmur-Age") == "" {
		t.Errorf("readyz %d, age %q", a.status, a.header.Get("X-Murmur-Age"))
	}
	if a := second.try("GET", "/v1/snapshot", nil, "Authorization", "Bearer ms1.unknown.unknown"); a.status != 503 {
		t.Errorf("a stranger while nobody can be asked: %d %s", a.status, a.body)
	}
	if second.usage.of("a", time.Now()).last.IsZero() {
		t.Error("when the flag was last read is forgotten")
	}
}

// silentStore watches nothing.
type silentStore struct{ record.Store }

func (silentStore) Watch(ctx context.Context, _ []record.Kind, _ func(record.Batch) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestDamagedCopies: a copy that is torn or changed at any place is ignored as a whole, and replaced.
func TestDamagedCopies(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	inDir := func(c *Config) { c.Dir = dir }
	first := w.server(inDir)
	first.put(boolFlag("a", 10000))
	first.stop()
	name := filepath.Join(dir, copyName)
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeCopy(file); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for n := range len(file) {
		if _, err := decodeCopy(file[:n]); !errors.Is(err, errBadCopy) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
		flipped := append([]byte(nil), file...)
		flipped[n] ^= 0x20
		if c, err := decodeCopy(flipped); err == nil && c.Revision == 0 {
			t.Fatalf("byte %d changed: %+v", n, c)
		}
	}
	if err := os.WriteFile(name, file[:len(file)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	w.store = silentStore{w.store}
	second := w.start(inDir)
	if a := second.try("GET", "/readyz", nil); a.status != 503 {
		t.Errorf("readyz %d on half a copy", a.status)
	}
	if a := second.do("POST", ofrepFlagPrefix+"a", `{}`); a.status != 503 || a.header.Get("Retry-After") == "" || a.json(t)["metadata"] == nil {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := second.do("GET", "/v1/stream", ""); a.status != 503 {
		t.Errorf("stream: %d", a.status)
	}
	second.stop()
	w.store = w.mem
	third := w.server(inDir)
	if a := third.do("POST", ofrepFlagPrefix+"a", `{}`); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestNoCopyOfNothing: a server that never saw the store leaves no copy behind that says there are no flags.
func TestNoCopyOfNothing(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.store = silentStore{w.store}
	w.start(func(c *Config) { c.Dir = dir }).stop()
	if _, err := os.Stat(filepath.Join(dir, copyName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestClocksDiffer: two servers with different clocks give the dials of their times, each consistently.
func TestClocksDiffer(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	set, err := feature.Compile([]feature.Flag{{
		Key: "ramp", Type: feature.Boolean, On: "on", Off: "off",
		Variants: []feature.Variant{{Name: "on", Value: []byte("true")}, {Name: "off", Value: []byte("false")}},
		Schedule: &feature.Schedule{Ramp: true, Stages: []feature.Stage{{At: start}, {At: start.Add(10000 * time.Second), Dial: 10000}}},
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	st := &state{set: set, flags: map[string]heldFlag{}}
	def, _ := set.Flag("ramp")
	st.flags["ramp"] = heldFlag{def: def, rev: 1}
	st.seal()
	early, late := start.Add(3000*time.Second), start.Add(3002*time.Second)
	if st.dials(early) == st.dials(late) {
		t.Error("clocks two steps apart look the same")
	}
	changed := 0
	for _, unit := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		ctx := feature.Context{TargetingKey: unit}
		a, b := set.Evaluate("ramp", &ctx, early), set.Evaluate("ramp", &ctx, late)
		if a.Variant == "on" && b.Variant == "off" {
			t.Errorf("%s is on early and off late: a rising ramp only adds", unit)
		}
		if a.Variant != b.Variant {
			changed++
		}
	}
	if changed > 1 {
		t.Errorf("%d of 8 units differ for two ten-thousandths", changed)
	}
}

// TestReaders: while the store is away only known readers are let in; a refusal ends that.
func TestReaders(t *testing.T) {
	w := newWorld(t)
	r := newReaders(w.authority(), time.Nanosecond)
	now := time.Now()
	r.remember("Bearer x", "x", now)
	if !r.knew("Bearer x", now.Add(23*time.Hour)) || r.knew("Bearer x", now.Add(25*time.Hour)) || r.knew("Bearer y", now) {
		t.Error("known for another time than a day")
	}
	kept := r.keep()
	for digest := range kept {
		if strings.Contains(digest, "x") || len(digest) != 64 {
			t.Errorf("kept %q", digest)
		}
	}
	again := newReaders(w.authority(), time.Nanosecond)
	again.restore(map[string]time.Time{digestOf("Bearer far"): now.Add(1000 * time.Hour)})
	again.restore(kept)
	if !again.knew("Bearer x", now) || again.knew("Bearer far", now) {
		t.Error("restored wrongly")
	}
	again.forget("Bearer x")
	if again.knew("Bearer x", now) {
		t.Error("a refused credential is still known")
	}
}

func TestNewRefuses(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]Config{
		"nothing":    {},
		"bad folder": {Store: w.store, Authority: w.authority(), ID: "x", Dir: file},
		"bad listen": {Store: w.store, Authority: w.authority(), ID: "x", Dir: t.TempDir(), Listen: "256.0.0.1:x"},
	} {
		if s, err := New(cfg); err == nil {
			t.Errorf("%s: made %v", name, s)
		}
	}
	s, err := New(Config{Store: w.store, Authority: w.authority(), ID: "x", Dir: t.TempDir(), Listen: NoListener})
	if err != nil || s.Addr() != "" || s.Handler() == nil {
		t.Errorf("%v", err)
	}
	if err == nil {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}
}
