package darkmode

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// ErrTooLarge is wrapped by the error for an event or snapshot over [Config.MaxBytes].
var ErrTooLarge = errors.New("larger than the client takes")

// keepBuffer is how much a reader holds on to between events.
const keepBuffer = 256 << 10

// sseEvent is one event of a stream. Its data is valid until the next is read.
type sseEvent struct {
	name string
	id   string
	data []byte
}

// sseReader reads an event stream as the HTML standard defines it (section 9.2.6), with a bound on the size of
// one event. It keeps nothing of what it has no use for.
type sseReader struct {
	r     *bufio.Reader
	limit int
	// retry is the last reconnection time the server gave; 0 for none.
	retry time.Duration
	line  []byte
	data  []byte
	skip  bool // a line feed, when it comes next: it belongs to a carriage return
	start bool // nothing was read so far
}

func newSSEReader(r io.Reader, limit int) *sseReader {
	return &sseReader{r: bufio.NewReaderSize(r, 32<<10), limit: limit, start: true}
}

// next returns the next event. At the end of the stream it is io.EOF; an unfinished event is dropped.
func (s *sseReader) next() (sseEvent, error) {
	var e sseEvent
	if cap(s.data)+cap(s.line) > keepBuffer { // after a whole state, which comes once
		s.data, s.line = nil, nil
	}
	s.data = s.data[:0]
	hasData := false
	for {
		line, err := s.readLine(s.limit - len(s.data))
		if err != nil {
			return sseEvent{}, err
		}
		if len(line) == 0 {
			if !hasData {
				e = sseEvent{id: e.id} // an event without data is none
				continue
			}
			e.data = s.data[:len(s.data)-1]
			return e, nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "event":
			e.name = string(value)
		case "data":
			s.data = append(append(s.data, value...), '\n')
			hasData = true
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				e.id = string(value)
			}
		case "retry":
			s.setRetry(string(value))
		}
	}
}

func (s *sseReader) setRetry(value string) {
	if ms, err := strconv.ParseUint(value, 10, 31); err == nil {
		s.retry = min(time.Duration(ms)*time.Millisecond, maxRetryAfter)
	}
}

// readLine returns the next line without its end, which is LF, CR or both. It takes what has arrived and waits only
// where a line is unfinished.
func (s *sseReader) readLine(limit int) ([]byte, error) {
	s.line = s.line[:0]
	for {
		if _, err := s.r.Peek(1); err != nil {
			return nil, err
		}
		buf, _ := s.r.Peek(s.r.Buffered())
		if s.skip {
			s.skip = false
			if buf[0] == '\n' {
				_, _ = s.r.Discard(1) // it is buffered
				continue
			}
		}
		n := lineEnd(buf)
		part := buf[:n]
		s.line = append(s.line, part...)
		if len(s.line) > limit {
			return nil, fmt.Errorf("event of over %d bytes: %w", s.limit, ErrTooLarge)
		}
		if n == len(buf) {
			_, _ = s.r.Discard(n)
			continue
		}
		s.skip = buf[n] == '\r'
		_, _ = s.r.Discard(n + 1)
		if s.start {
			s.start = false
			s.line = bytes.TrimPrefix(s.line, []byte("\ufeff"))
		}
		return s.line, nil
	}
}

// lineEnd is the index of the first line end, or len(buf).
func lineEnd(buf []byte) int {
	n := bytes.IndexByte(buf, '\n')
	if n < 0 {
		n = len(buf)
	}
	if cr := bytes.IndexByte(buf[:n], '\r'); cr >= 0 {
		return cr
	}
	return n
}
