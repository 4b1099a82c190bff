package darkmode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/murmuration/murmuration/feature"
)

// state is everything known at one revision: immutable, swapped as a whole.
type state struct {
	set      *feature.Set
	revision uint64
	source   Source
	// ahead holds, for flags taken from kill events, the revision of the kill; the deltas in between must not undo it.
	ahead map[string]uint64
}

// message is the JSON of a snapshot, a delta and a kill.
type message struct {
	Revision        uint64            `json:"revision"`
	Flags           []feature.Flag    `json:"flags"`
	Segments        []feature.Segment `json:"segments"`
	DroppedFlags    []string          `json:"dropped_flags"`
	DroppedSegments []string          `json:"dropped_segments"`
	Ack             bool              `json:"ack"`
}

// snapshot is the JSON of a whole state: the answer of GET /v1/snapshot, a bootstrap, and the body of a disk copy.
type snapshot struct {
	Revision uint64            `json:"revision"`
	Flags    []feature.Flag    `json:"flags"`
	Segments []feature.Segment `json:"segments"`
	// AsOf is when the server last confirmed the state; only disk copies have it.
	AsOf time.Time `json:"as_of,omitzero"`
}

// ErrNotAState is wrapped by the error for input that is JSON but no state, such as a proxy's error page.
var ErrNotAState = errors.New("not a flag state: it has no revision or no flags")

func decodeSnapshot(data []byte) (snapshot, error) {
	var probe struct {
		Flags json.RawMessage `json:"flags"`
	}
	var s snapshot
	if err := json.Unmarshal(data, &probe); err != nil {
		return s, fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("read state: %w", err)
	}
	if s.Revision == 0 || !bytes.HasPrefix(probe.Flags, []byte("[")) {
		return s, ErrNotAState
	}
	return s, nil
}

func decodeMessage(data []byte) (message, error) {
	var m message
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("read change: %w", err)
	}
	if m.Revision == 0 {
		return m, fmt.Errorf("read change: %w", ErrNotAState)
	}
	return m, nil
}

// replaced returns the state of a snapshot. Definitions that do not compile keep the form that s has, if any; the
// error names them and the state is usable all the same.
func (s *state) replaced(snap snapshot, from Source) (*state, error) {
	flags := make(map[string]bool, len(snap.Flags))
	for i := range snap.Flags {
		flags[snap.Flags[i].Key] = true
	}
	segments := make(map[string]bool, len(snap.Segments))
	for i := range snap.Segments {
		segments[snap.Segments[i].Key] = true
	}
	var dropFlags, dropSegments []string
	for key := range s.set.Keys() {
		if !flags[key] {
			dropFlags = append(dropFlags, key)
		}
	}
	for _, seg := range s.set.Segments() {
		if !segments[seg.Key] {
			dropSegments = append(dropSegments, seg.Key)
		}
	}
	set, err := s.set.With(snap.Flags, snap.Segments, dropFlags, dropSegments)
	return &state{set: set, revision: snap.Revision, source: from}, err
}

// changed returns the state after a delta, or nil when the state has it already.
func (s *state) changed(m message) (*state, error) {
	if m.Revision <= s.revision {
		return nil, nil
	}
	next := &state{revision: m.Revision, source: FromServer, ahead: maps.Clone(s.ahead)}
	maps.DeleteFunc(next.ahead, func(_ string, revision uint64) bool { return revision <= m.Revision })
	dropped := slices.DeleteFunc(m.DroppedFlags, func(key string) bool { return next.ahead[key] > 0 })
	var err error
	next.set, err = s.set.With(s.notOlder(m.Flags), m.Segments, dropped, m.DroppedSegments)
	return next, err
}

// killed returns the state after a kill event, or nil when the state has it already. The revision stays: the
// deltas up to the kill are still to come.
func (s *state) killed(m message) (*state, error) {
	flags := s.notOlder(m.Flags)
	if m.Revision <= s.revision || len(flags) == 0 {
		return nil, nil
	}
	next := *s
	next.source = FromServer
	next.ahead = maps.Clone(s.ahead)
	if next.ahead == nil {
		next.ahead = map[string]uint64{}
	}
	for i := range flags {
		next.ahead[flags[i].Key] = m.Revision
	}
	var err error
	next.set, err = s.set.With(flags, nil, nil, nil)
	return &next, err
}

// notOlder keeps the definitions whose version is not lower than the one held.
func (s *state) notOlder(flags []feature.Flag) []feature.Flag {
	return slices.DeleteFunc(flags, func(f feature.Flag) bool {
		held, ok := s.set.Flag(f.Key)
		return ok && f.Version < held.Version
	})
}

// snapshot is the state as data.
func (s *state) snapshot() snapshot {
	out := snapshot{Revision: s.revision, Flags: make([]feature.Flag, 0, s.set.Len()), Segments: s.set.Segments()}
	for key := range s.set.Keys() {
		f, _ := s.set.Flag(key)
		out.Flags = append(out.Flags, f)
	}
	return out
}
