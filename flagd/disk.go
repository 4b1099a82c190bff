package flagd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/durable"
)

// The disk copy is one file: a line "murmur-flags 1 <SHA-256 of the rest> <length of the rest>", then JSON.
const (
	copyName  = "flags.copy"
	copyMagic = "murmur-flags"
	copyV     = "1"
	maxCopy   = 256 << 20
)

// errBadCopy is a disk copy that is torn, changed or of an unknown form. It is never used in part.
var errBadCopy = errors.New("the disk copy is damaged")

// diskCopy is what the file holds.
type diskCopy struct {
	Revision int64         `json:"revision"`
	Newest   int64         `json:"newest"`
	Contact  time.Time     `json:"contact"` // when the store was last heard of
	Flags    []copyFlag    `json:"flags"`
	Segments []copySegment `json:"segments"`
	// Readers are the digests of credentials that could read lately, and until when they may without the store.
	Readers map[string]time.Time `json:"readers,omitempty"`
	Tickets []byte               `json:"tickets,omitempty"`
	// LastRead is when flags were last read through this server, in Unix seconds.
	LastRead map[string]int64 `json:"last_read,omitempty"`
}

type copyFlag struct {
	Rev  int64        `json:"rev"`
	At   time.Time    `json:"at"`
	By   string       `json:"by"`
	Flag feature.Flag `json:"flag"`
}

type copySegment struct {
	Rev     int64           `json:"rev"`
	Segment feature.Segment `json:"segment"`
}

// encodeCopy renders the file.
func encodeCopy(c diskCopy) ([]byte, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	head := fmt.Sprintf("%s %s %s %d\n", copyMagic, copyV, hex.EncodeToString(sum[:]), len(body))
	return append([]byte(head), body...), nil
}

// decodeCopy reads what encodeCopy wrote, whole or not at all.
func decodeCopy(file []byte) (diskCopy, error) {
	var c diskCopy
	head, body, ok := bytes.Cut(file, []byte("\n"))
	fields := strings.Fields(string(head[:min(len(head), 256)]))
	if !ok || len(fields) != 4 || fields[0] != copyMagic {
		return c, fmt.Errorf("%w: it does not begin as one", errBadCopy)
	}
	if fields[1] != copyV {
		return c, fmt.Errorf("%w: it is of version %q, this program knows %s", errBadCopy, fields[1], copyV)
	}
	if n, err := strconv.Atoi(fields[3]); err != nil || n != len(body) {
		return c, fmt.Errorf("%w: it has %d bytes where it says %s", errBadCopy, len(body), fields[3])
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != fields[2] {
		return c, fmt.Errorf("%w: the checksum does not fit", errBadCopy)
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return diskCopy{}, fmt.Errorf("%w: %w", errBadCopy, err)
	}
	if c.Revision <= 0 {
		return diskCopy{}, fmt.Errorf("%w: revision %d", errBadCopy, c.Revision)
	}
	return c, nil
}

// stateOf makes a state of a disk copy. Definitions that do not compile are an error: the copy holds only what did.
func stateOf(c diskCopy) (*state, error) {
	s := &state{rev: c.Revision, newest: c.Newest, oldest: c.Revision, flags: map[string]heldFlag{}, segments: map[string]heldSegment{}}
	var flags []feature.Flag
	for _, f := range c.Flags {
		s.putFlag(f.Flag.Key, heldFlag{f.Flag, f.Rev, f.At, f.By})
		flags = append(flags, f.Flag)
	}
	var segments []feature.Segment
	for _, seg := range c.Segments {
		s.putSegment(seg.Segment.Key, heldSegment{seg.Segment, seg.Rev})
		segments = append(segments, seg.Segment)
	}
	var err error
	if s.set, err = feature.Compile(flags, segments); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadCopy, err)
	}
	return s, nil
}

// copyOf is the disk copy of a state.
func copyOf(s *state) diskCopy {
	c := diskCopy{Revision: s.rev, Newest: s.newest}
	for key := range s.set.Keys() {
		h := s.flags[key]
		c.Flags = append(c.Flags, copyFlag{h.rev, h.at, h.by, h.def})
	}
	for _, h := range s.segments {
		c.Segments = append(c.Segments, copySegment{h.rev, h.def})
	}
	return c
}

// openDir opens the server's folder.
func openDir(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return root, durable.RemoveTemp(root, ".")
}

// readCopy reads the disk copy; fs.ErrNotExist when there is none.
func readCopy(root *os.Root) (diskCopy, error) {
	f, err := root.Open(copyName)
	if err != nil {
		return diskCopy{}, err
	}
	defer f.Close()
	file, err := io.ReadAll(io.LimitReader(f, maxCopy+1))
	if err != nil {
		return diskCopy{}, err
	}
	if len(file) > maxCopy {
		return diskCopy{}, fmt.Errorf("%w: it is larger than %d bytes", errBadCopy, maxCopy)
	}
	return decodeCopy(file)
}

// loadCopy starts from the disk copy, if there is a good one. What is wrong with it is logged and otherwise ignored:
// the store has the truth.
func (s *Server) loadCopy() {
	c, err := readCopy(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var st *state
	if err == nil {
		st, err = stateOf(c)
	}
	if err != nil {
		s.log.Error("the disk copy of the flags is not used: flags are served once the store answers", "file", copyName, "err", err)
		return
	}
	s.view.contact.Store(c.Contact.UnixNano())
	s.readers.restore(c.Readers)
	s.tickets.set(c.Tickets)
	s.usage.restore(c.LastRead)
	s.view.install(st)
	s.log.Info("flags loaded from the disk copy", "rev", st.rev, "flags", st.set.Len(), "age", time.Since(c.Contact).Round(time.Second))
}

// copyEvery is how old what is not flags may get on disk; flags are written at once.
const (
	copyEvery = 10 * time.Minute
	copyPause = 100 * time.Millisecond // between two writes, so that a burst of changes is written once
)

// keepCopy writes the disk copy whenever the flags change, until ctx ends, and then once more.
func (s *Server) keepCopy(ctx context.Context) error {
	ticker := time.NewTicker(copyEvery)
	defer ticker.Stop()
	for st := s.view.load(); ; {
		if st.rev != 0 {
			s.writeCopy(s.view.load())
		}
		select {
		case <-ctx.Done():
			s.writeCopy(s.view.load())
			return nil
		case <-time.After(copyPause):
		}
		select {
		case <-ctx.Done():
		case <-st.next:
		case <-ticker.C:
		}
		st = s.view.load()
	}
}

func (s *Server) writeCopy(st *state) {
	if st.rev == 0 {
		return
	}
	c := copyOf(st)
	c.Contact = time.Unix(0, s.view.contact.Load()).UTC()
	c.Readers, c.Tickets, c.LastRead = s.readers.keep(), s.tickets.get(), s.usage.lastReads()
	file, err := encodeCopy(c)
	if err == nil {
		err = durable.WriteFile(s.dir, copyName, file, 0o600)
	}
	if err != nil {
		s.log.Error("the disk copy could not be written: a restart without the store would use an older one", "err", err)
		s.metrics.copyErrors.Inc()
	}
}
