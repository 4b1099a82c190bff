package flagd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/record"
)

// view follows the store. One goroutine applies batches; everyone else loads the present state.
type view struct {
	log     *slog.Logger
	now     func() time.Time
	current atomic.Pointer[state]
	contact atomic.Int64 // when the store was last heard of, in Unix nanoseconds; 0: never

	ready     chan struct{} // closed once there is something to serve
	readyOnce sync.Once
	changed   func(*state) // told of every new state, after it is in place
}

func newView(log *slog.Logger) *view {
	v := &view{log: log, now: time.Now, ready: make(chan struct{}), changed: func(*state) {}}
	v.current.Store(emptyState())
	return v
}

func (v *view) load() *state { return v.current.Load() }

// heard notes that the store answered.
func (v *view) heard() { v.contact.Store(v.now().UnixNano()) }

// age is how long ago the store was last heard of.
func (v *view) age() time.Duration {
	at := v.contact.Load()
	if at == 0 {
		return 0
	}
	return max(v.now().Sub(time.Unix(0, at)), 0)
}

// run applies what the store's watch delivers, until ctx ends.
func (v *view) run(ctx context.Context, store record.Store) error {
	return store.Watch(ctx, []record.Kind{record.KindFlag, record.KindSegment}, func(b record.Batch) error {
		v.heard()
		v.apply(b)
		return nil
	})
}

// install replaces the state. Only one goroutine at a time does so.
func (v *view) install(next *state) {
	next.seal()
	old := v.current.Swap(next)
	close(old.next)
	v.readyOnce.Do(func() { close(v.ready) })
	v.changed(next)
}

// change is what a batch makes of a state, sorted out.
type change struct {
	flags, segments         map[string]record.Item
	dropFlags, dropSegments []string
}

// sortOut finds what differs from the state. After a reset that is also what is not there any more.
func sortOut(s *state, b record.Batch) change {
	c := change{flags: map[string]record.Item{}, segments: map[string]record.Item{}}
	present := map[record.Key]bool{}
	for _, ch := range b.Changes {
		key := ch.Key.ID
		present[ch.Key] = !ch.Deleted
		switch {
		case ch.Key.Kind == record.KindFlag && ch.Deleted:
			c.dropFlags = append(c.dropFlags, key)
		case ch.Key.Kind == record.KindSegment && ch.Deleted:
			c.dropSegments = append(c.dropSegments, key)
		case ch.Key.Kind == record.KindFlag && s.flags[key].rev != ch.Rev:
			c.flags[key] = ch.Item
		case ch.Key.Kind == record.KindSegment && s.segments[key].rev != ch.Rev:
			c.segments[key] = ch.Item
		}
	}
	if !b.Reset {
		return c
	}
	for key := range s.flags {
		if !present[record.FlagKey(key)] {
			c.dropFlags = append(c.dropFlags, key)
		}
	}
	for key := range s.segments {
		if !present[record.SegmentKey(key)] {
			c.dropSegments = append(c.dropSegments, key)
		}
	}
	return c
}

// apply brings in one batch of the watch.
func (v *view) apply(b record.Batch) {
	old := v.load()
	c := sortOut(old, b)
	next := &state{
		rev: b.Rev, newest: old.newest, print: old.print, ring: old.ring, oldest: old.oldest,
		set: old.set, flags: maps.Clone(old.flags), segments: maps.Clone(old.segments),
	}
	if b.Rev < old.rev {
		// The store was restored from a backup: no revision that clients know means anything any more.
		v.log.Warn("the store went back in time: all clients start over", "from", old.rev, "to", b.Rev)
		next.newest = 0
	}
	d := v.merge(old, next, c)
	sendable := len(d.Flags)+len(d.Segments)+len(d.DroppedFlags)+len(d.DroppedSegments) > 0
	switch {
	case b.Rev < old.rev || old.rev == 0:
		next.ring, next.oldest = nil, b.Rev
	case sendable:
		next.ring, next.oldest = push(old.ring, old.oldest, encodeDelta(old, d))
	}
	v.install(next)
}

// merge puts a change into next and returns what clients must be told.
func (v *view) merge(old, next *state, c change) deltaJSON {
	d := deltaJSON{Revision: next.rev, Flags: []feature.Flag{}}
	next.drop(&d, c)
	defs, bad := v.decodeFlags(c.flags)
	segments := v.decodeSegments(c.segments)
	set, err := old.set.With(forms(defs), slices.Collect(maps.Values(segments)), d.DroppedFlags, d.DroppedSegments)
	if err != nil {
		v.log.Error("a stored definition does not compile: its last good form stays in force", "rev", next.rev, "err", err)
	}
	next.set = set
	for key, seg := range segments {
		if seg.Validate() == nil {
			next.putSegment(key, heldSegment{seg, c.segments[key].Rev})
			d.Segments = append(d.Segments, seg)
		}
	}
	for key, held := range defs {
		if got, ok := set.Flag(key); !ok || got.Version != held.def.Version {
			bad[key] = held.def
			continue
		}
		next.putFlag(key, held)
		d.Flags = append(d.Flags, held.def)
	}
	v.salvageKills(next, &d, c, bad)
	slices.SortFunc(d.Flags, killedFirst)
	return d
}

func forms(defs map[string]heldFlag) []feature.Flag {
	out := make([]feature.Flag, 0, len(defs))
	for _, h := range defs {
		out = append(out, h.def)
	}
	// An order of their own: which flag of a cycle is left out must not be chance.
	slices.SortFunc(out, func(a, b feature.Flag) int { return compareText(a.Key, b.Key) })
	return out
}

func killedFirst(a, b feature.Flag) int {
	if (a.Killed != nil) != (b.Killed != nil) {
		if a.Killed != nil {
			return -1
		}
		return 1
	}
	return compareText(a.Key, b.Key)
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// decodeFlags decodes records; those it cannot decode come back in bad, with what is known of them.
func (v *view) decodeFlags(items map[string]record.Item) (good map[string]heldFlag, bad map[string]feature.Flag) {
	good, bad = map[string]heldFlag{}, map[string]feature.Flag{}
	for key, item := range items {
		form, err := record.Decode[record.Flag](item.Value)
		if err == nil && form.Key != key {
			err = fmt.Errorf("the record is of flag %q", form.Key)
		}
		if err == nil {
			good[key] = heldFlag{form.Feature(), item.Rev, form.UpdatedAt, form.UpdatedBy}
			continue
		}
		v.log.Error("a stored flag cannot be read: its last good form stays in force", "flag", key, "rev", item.Rev, "err", err)
		bad[key] = feature.Flag{Key: key, Killed: killIn(item.Value)}
	}
	return good, bad
}

func (v *view) decodeSegments(items map[string]record.Item) map[string]feature.Segment {
	out := map[string]feature.Segment{}
	for key, item := range items {
		form, err := record.Decode[record.Segment](item.Value)
		if err == nil && form.Key != key {
			err = fmt.Errorf("the record is of segment %q", form.Key)
		}
		if err != nil {
			v.log.Error("a stored segment cannot be read: its last good form stays in force", "segment", key, "rev", item.Rev, "err", err)
			continue
		}
		out[key] = form.Feature()
	}
	return out
}

// killIn finds the kill in a record that cannot be read as a whole, for example one that a newer program wrote.
func killIn(value []byte) *feature.Kill {
	var form struct {
		Body struct {
			Killed *feature.Kill `json:"killed"`
		} `json:"body"`
	}
	if json.Unmarshal(value, &form) != nil {
		return nil
	}
	return form.Body.Killed
}

// salvageKills applies the kills of flags whose definitions cannot be used otherwise: to the last good form if there is
// one, else to the least that still answers the off value.
func (v *view) salvageKills(next *state, d *deltaJSON, c change, bad map[string]feature.Flag) {
	for key, def := range bad {
		if def.Killed == nil {
			continue
		}
		held, had := next.flags[key]
		salvaged := held.def
		if !had {
			salvaged = leastFlag(def)
		}
		salvaged.Killed, salvaged.Version = def.Killed, max(def.Version, salvaged.Version+1)
		set, err := next.set.With([]feature.Flag{salvaged}, nil, nil, nil)
		if err != nil {
			v.log.Error("a killed flag has no usable definition and is left out", "flag", key, "err", err)
			continue
		}
		next.set = set
		next.putFlag(key, heldFlag{salvaged, c.flags[key].Rev, held.at, held.by})
		d.Flags = append(d.Flags, salvaged)
	}
}

// leastFlag is a flag with nothing but the off variant; a boolean one is off when even that is missing.
func leastFlag(def feature.Flag) feature.Flag {
	out := feature.Flag{Key: def.Key, Type: def.Type, Tags: def.Tags, On: def.Off, Off: def.Off, Version: def.Version}
	for _, variant := range def.Variants {
		if variant.Name == def.Off {
			out.Variants = []feature.Variant{variant}
		}
	}
	if out.Validate() == nil {
		return out
	}
	off := feature.Variant{Name: "off", Value: json.RawMessage("false")}
	return feature.Flag{Key: def.Key, Type: feature.Boolean, On: "off", Off: "off", Variants: []feature.Variant{off}, Version: def.Version}
}

// drop takes out what is gone.
func (s *state) drop(d *deltaJSON, c change) {
	for _, key := range c.dropFlags {
		if held, ok := s.flags[key]; ok {
			mix(&s.print, string(record.KindFlag), key, held.rev)
			delete(s.flags, key)
			d.DroppedFlags = append(d.DroppedFlags, key)
		}
	}
	for _, key := range c.dropSegments {
		if held, ok := s.segments[key]; ok {
			mix(&s.print, string(record.KindSegment), key, held.rev)
			delete(s.segments, key)
			d.DroppedSegments = append(d.DroppedSegments, key)
		}
	}
	if len(d.DroppedFlags)+len(d.DroppedSegments) > 0 {
		s.newest = s.rev
	}
}

func (s *state) putFlag(key string, h heldFlag) {
	if old, ok := s.flags[key]; ok {
		mix(&s.print, string(record.KindFlag), key, old.rev)
	}
	mix(&s.print, string(record.KindFlag), key, h.rev)
	s.flags[key] = h
	s.newest = max(s.newest, h.rev)
}

func (s *state) putSegment(key string, h heldSegment) {
	if old, ok := s.segments[key]; ok {
		mix(&s.print, string(record.KindSegment), key, old.rev)
	}
	mix(&s.print, string(record.KindSegment), key, h.rev)
	s.segments[key] = h
	s.newest = max(s.newest, h.rev)
}

// encodeDelta makes the events of a change. It asks for confirmation when the change kills.
func encodeDelta(old *state, d deltaJSON) *delta {
	var kills []feature.Flag
	for _, f := range d.Flags {
		if f.Killed != nil && old.flags[f.Key].def.Killed == nil {
			kills = append(kills, f)
		}
	}
	d.Ack = len(kills) > 0
	out := &delta{rev: d.Revision, frame: frame("delta", d.Revision, mustJSON(d))}
	if d.Ack {
		out.kill = frame("kill", 0, mustJSON(deltaJSON{Revision: d.Revision, Flags: kills, Ack: true}))
	}
	return out
}

// reach waits until the state is of at least a revision, or the wait or ctx ends, and returns what there is then.
func (v *view) reach(ctx context.Context, rev int64, wait time.Duration) *state {
	s := v.load()
	if s.rev >= rev {
		return s
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for s.rev < rev {
		select {
		case <-s.next:
			s = v.load()
		case <-timer.C:
			return v.load()
		case <-ctx.Done():
			return v.load()
		}
	}
	return s
}
