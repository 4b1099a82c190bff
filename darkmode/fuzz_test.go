package darkmode

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/darkmode/darkmodetest"
	"github.com/murmuration/murmuration/feature"
)

type readEvent struct{ Name, ID, Data string }

func readAll(r io.Reader, limit int) ([]readEvent, *sseReader, error) {
	s := newSSEReader(r, limit)
	var out []readEvent
	for {
		e, err := s.next()
		if err != nil {
			return out, s, err
		}
		out = append(out, readEvent{e.name, e.id, string(e.data)})
	}
}

func TestSSE(t *testing.T) {
	for _, tt := range []struct {
		name, stream string
		want         []readEvent
		retry        int64 // ms
	}{
		{"plain", "event: a\nid: 7\ndata: x\n\n", []readEvent{{"a", "7", "x"}}, 0},
		{"data of several lines", "data: x\ndata\ndata:  y\n\n", []readEvent{{"", "", "x\n\n y"}}, 0},
		{"carriage returns", "data: x\r\rdata: y\r\n\r\ndata: z\n\r", []readEvent{{"", "", "x"}, {"", "", "y"}, {"", "", "z"}}, 0},
		{"byte order mark, comment, retry", "\ufeffretry: 250\n: hb\n\ndata:x\n\n", []readEvent{{"", "", "x"}}, 250},
		{"no data, no event", "event: a\n\nid: 3\n\ndata: x\n\n", []readEvent{{"", "3", "x"}}, 0},
		{"unfinished", "data: x\n\ndata: y\n", []readEvent{{"", "", "x"}}, 0},
		{"retry that is none", "retry: 1s\nretry: -1\n\n", nil, 0},
		{"an id with a zero byte is none", "id: a\x00b\ndata: x\n\n", []readEvent{{"", "", "x"}}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(tt.stream), iotest.OneByteReader(strings.NewReader(tt.stream))} {
				got, s, err := readAll(r, 1<<10)
				if d := cmp.Diff(tt.want, got); d != "" || !errors.Is(err, io.EOF) || s.retry.Milliseconds() != tt.retry {
					t.Errorf("%s, error %v, retry %v", d, err, s.retry)
				}
			}
		})
	}
}

func TestSSEBounds(t *testing.T) {
	for _, stream := range []string{"data: " + strings.Repeat("x", 2000), strings.Repeat("data: xxxxxxxx\n", 300), strings.Repeat(":", 2000)} {
		if _, s, err := readAll(strings.NewReader(stream), 1000); !errors.Is(err, ErrTooLarge) || cap(s.line) > 40<<10 {
			t.Errorf("%.20q...: %v, line buffer %d", stream, err, cap(s.line))
		}
	}
}

// TestSSEGivesBigBuffersBack: the memory of a whole state is not kept for the small events after it.
func TestSSEGivesBigBuffersBack(t *testing.T) {
	_, s, err := readAll(strings.NewReader("data: "+strings.Repeat("x", 1<<20)+"\n\ndata: y\n\n"), 1<<21)
	if !errors.Is(err, io.EOF) || cap(s.data)+cap(s.line) > keepBuffer {
		t.Errorf("%v; %d bytes are held", err, cap(s.data)+cap(s.line))
	}
}

// FuzzSSE: whatever comes, nothing is over the limit, how it is cut into reads makes no difference, and an event that
// is written is read.
func FuzzSSE(f *testing.F) {
	for _, seed := range []string{"event: a\nid: 1\ndata: x\n\n", "\r\n\r\r\n", "\ufeffdata", ":\n\ndata:\n\n", "retry: 9\n\ndata: a\rdata: b\r\n\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 64
		whole, _, err := readAll(bytes.NewReader(data), limit)
		single, _, errSingle := readAll(iotest.OneByteReader(bytes.NewReader(data)), limit)
		if d := cmp.Diff(whole, single); d != "" || errors.Is(err, ErrTooLarge) != errors.Is(errSingle, ErrTooLarge) {
			t.Fatalf("read at once and byte by byte differ: %s (%v, %v)", d, err, errSingle)
		}
		for _, e := range whole {
			if len(e.Data) > limit {
				t.Fatalf("event of %d bytes", len(e.Data))
			}
		}
		if bytes.ContainsAny(data, "\r\n") || !utf8.Valid(data) {
			return
		}
		got, _, _ := readAll(strings.NewReader("data: "+string(data)+"\n\n"), len(data)+10)
		if d := cmp.Diff([]readEvent{{Data: string(data)}}, got); d != "" {
			t.Fatal(d)
		}
	})
}

// FuzzDiskCopy: only what was written whole is read, and what is read compiles to a state that reads back the same.
func FuzzDiskCopy(f *testing.F) {
	good, err := encodeCopy(snapshot{Revision: 3, Flags: []feature.Flag{darkmodetest.Bool("a", 5000)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte(copyMagic + " 1 " + checksum([]byte(`{"revision":1,"flags":[]}`)) + "\n" + `{"revision":1,"flags":[]}`))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		snap, err := decodeCopy(data)
		if err != nil {
			if !errors.Is(err, ErrCopyDamaged) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		c := New(Config{})
		c.replace(snap, FromDisk)
		again, err := encodeCopy(c.state.Load().snapshot())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeCopy(again); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
	})
}

// FuzzSnapshot: a state from the network never panics and never loses what is good.
func FuzzSnapshot(f *testing.F) {
	f.Add(darkmodetest.Bootstrap(darkmodetest.Bool("a", 5000)))
	f.Add([]byte(`{"revision":2,"flags":[{"key":"a"}],"segments":[{"key":"s","any_of":[[{"attribute":"x","op":"in","values":[1]}]]}]}`))
	f.Add([]byte(`{"revision":3,"flags":[],"dropped_flags":["a"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := New(Config{Bootstrap: darkmodetest.Bootstrap(darkmodetest.Bool("keep", 10000))})
		if m, err := decodeMessage(data); err == nil {
			c.apply(FromServer, func(s *state) (*state, error) { return s.killed(m) })
			c.apply(FromServer, func(s *state) (*state, error) { return s.changed(m) })
		}
		if snap, err := decodeSnapshot(data); err == nil {
			c.replace(snap, FromServer)
		}
		for key := range c.state.Load().set.Keys() {
			c.Bool(key, "u", false)
		}
	})
}
