package flagd

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/murmuration/murmuration/feature"
)

// Bounds of the ring of deltas. What is older is not resumed but sent as a whole.
const (
	ringDeltas = 1024
	ringBytes  = 16 << 20
)

// state is all a server knows at one revision. It is immutable but for what is made on first use; a new one
// replaces it as a whole.
type state struct {
	// rev is the store's revision whose content this is; nothing of the store up to it is missing.
	rev int64
	// newest is the revision of the newest change that is in it, at most rev.
	newest   int64
	set      *feature.Set
	flags    map[string]heldFlag
	segments map[string]heldSegment
	// print tells contents apart: which record of each key, at which revision, is in force.
	print [16]byte
	// scheduled are the flags whose dial moves by itself.
	scheduled []feature.Flag
	// floats are the keys of number flags whose values are printed with a decimal point.
	floats map[string]bool

	// ring holds the deltas after revision oldest, in order.
	ring   []*delta
	oldest int64
	// next is closed when a newer state is in place.
	next chan struct{}

	revHeader []string
	whole     func() wholeState
}

// heldFlag is a definition in force, the revision of its record and who wrote it.
type heldFlag struct {
	def feature.Flag
	rev int64
	at  time.Time
	by  string
}

type heldSegment struct {
	def feature.Segment
	rev int64
}

// delta is one change, encoded once for all streams.
type delta struct {
	rev   int64
	frame []byte // the whole event
	kill  []byte // the kill event, if it kills
}

// wholeState is the snapshot as it is served.
type wholeState struct {
	body, zipped, frame []byte
	etag                string
}

// snapshotJSON is the form of /v1/snapshot and of reset events.
type snapshotJSON struct {
	Revision int64             `json:"revision"`
	Flags    []feature.Flag    `json:"flags"`
	Segments []feature.Segment `json:"segments"`
}

// deltaJSON is the form of delta and kill events.
type deltaJSON struct {
	Revision        int64             `json:"revision"`
	Flags           []feature.Flag    `json:"flags"`
	Segments        []feature.Segment `json:"segments,omitempty"`
	DroppedFlags    []string          `json:"dropped_flags,omitempty"`
	DroppedSegments []string          `json:"dropped_segments,omitempty"`
	Ack             bool              `json:"ack,omitempty"`
}

func emptyState() *state {
	set, _ := feature.Compile(nil, nil) // nothing to go wrong
	s := &state{set: set, flags: map[string]heldFlag{}, segments: map[string]heldSegment{}}
	s.seal()
	return s
}

// seal derives what follows from the content.
func (s *state) seal() {
	s.next = make(chan struct{})
	s.revHeader = []string{strconv.FormatInt(s.rev, 10)}
	s.scheduled, s.floats = nil, map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(s.flags)) {
		if f := s.flags[key]; f.def.Schedule != nil && f.def.Killed == nil {
			s.scheduled = append(s.scheduled, f.def)
		}
		if hasFractions(s.flags[key].def) {
			s.floats[key] = true
		}
	}
	s.whole = sync.OnceValue(s.encode)
}

// encode makes the snapshot.
func (s *state) encode() wholeState {
	out := snapshotJSON{Revision: s.rev, Flags: []feature.Flag{}, Segments: []feature.Segment{}}
	for _, key := range slices.Sorted(maps.Keys(s.flags)) {
		out.Flags = append(out.Flags, s.flags[key].def)
	}
	for _, key := range slices.Sorted(maps.Keys(s.segments)) {
		out.Segments = append(out.Segments, s.segments[key].def)
	}
	body := mustJSON(out)
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	_, _ = zip.Write(body) // a buffer takes everything
	_ = zip.Close()
	return wholeState{
		body: body, zipped: zipped.Bytes(), frame: frame("reset", s.rev, body),
		etag: fmt.Sprintf(`"%d-%x"`, s.rev, s.print[:8]),
	}
}

// mustJSON encodes what compiled, and so can be encoded.
func mustJSON(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic("flagd: a compiled definition cannot be encoded: " + err.Error())
	}
	return body
}

// frame makes a server-sent event; id 0 leaves the id out.
func frame(event string, id int64, data []byte) []byte {
	var b bytes.Buffer
	b.WriteString("event: " + event + "\n")
	if id != 0 {
		b.WriteString("id: " + strconv.FormatInt(id, 10) + "\n")
	}
	b.WriteString("data: ")
	b.Write(data)
	b.WriteString("\n\n")
	return b.Bytes()
}

// since returns the deltas after a revision, and whether the ring reaches back that far.
func (s *state) since(rev int64) ([]*delta, bool) {
	if rev < s.oldest || rev > s.rev || rev == 0 {
		return nil, false
	}
	i, _ := slices.BinarySearchFunc(s.ring, rev+1, func(d *delta, rev int64) int { return int(d.rev - rev) })
	return s.ring[i:], true
}

// push returns the ring with one more delta, bounded. Older states keep their shorter view of the same array; only
// the one goroutine that makes states appends.
func push(ring []*delta, oldest int64, d *delta) ([]*delta, int64) {
	ring = append(ring, d)
	size := 0
	for i := len(ring) - 1; i >= 0; i-- {
		size += len(ring[i].frame) + len(ring[i].kill)
		if len(ring)-i > ringDeltas || size > ringBytes && i < len(ring)-1 {
			return slices.Clone(ring[i+1:]), ring[i].rev
		}
	}
	return ring, oldest
}

// mix puts a record into a fingerprint, or takes it out again.
func mix(print *[16]byte, kind, key string, rev int64) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(rev))
	sum := sha256.Sum256(append([]byte(kind+"/"+key+"@"), n[:]...))
	for i := range print {
		print[i] ^= sum[i]
	}
}

// dials is a fingerprint of where schedules put their flags' dials now.
func (s *state) dials(now time.Time) uint64 {
	h := uint64(14695981039346656037) // FNV-1a, 64 bits
	for i := range s.scheduled {
		h = (h ^ uint64(s.scheduled[i].DialAt(now))) * 1099511628211
	}
	return h
}

// nextDial is when a schedule next moves a dial.
func (s *state) nextDial(now time.Time) (time.Time, bool) {
	var next time.Time
	for i := range s.scheduled {
		if at, ok := s.scheduled[i].NextChange(now); ok && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next, !next.IsZero()
}
