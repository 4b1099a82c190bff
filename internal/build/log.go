package build

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	// shipEvery is how long output is gathered before it is sent.
	shipEvery = 300 * time.Millisecond
	// shipBackoff is the longest pause after a part could not be sent.
	shipBackoff = 10 * time.Second
	// shipFlush is how long the end of a build waits for the rest of its log to be sent.
	shipFlush = 15 * time.Second
)

// logFile is the log of one build on disk: bounded, and readable while it grows. It is safe for concurrent use.
type logFile struct {
	mu   sync.Mutex
	f    *os.File
	echo io.Writer // a copy for whoever waits in the foreground; may be nil
	size int64
	max  int64
	// full is called once, without the lock, when the log takes no more: over max, or the disk refused.
	full   func(error)
	isFull bool
	// last is the last non-empty line the command wrote, cut to 300 bytes.
	last []byte
	tail []byte
	// grew has room for one message: that there is something new to read.
	grew chan struct{}
}

func newLogFile(root *os.Root, name string, echo io.Writer, limit int64) (*logFile, error) {
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return nil, fmt.Errorf("create the build's log: %w", err)
	}
	return &logFile{f: f, echo: echo, max: limit, full: func(error) {}, grew: make(chan struct{}, 1)}, nil
}

// Write takes the command's output and never fails. Once the log takes no more it drops everything, so that the
// command does not block while it is being ended.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	if l.isFull {
		l.mu.Unlock()
		return len(p), nil
	}
	keep := p[:min(int64(len(p)), l.max-l.size)]
	err := l.put(keep)
	if err != nil {
		err = fmt.Errorf("write the build's log: %w", err)
	} else if len(keep) < len(p) {
		err = fmt.Errorf("%w: the limit is %d bytes", ErrLogFull, l.max)
	}
	l.remember(keep)
	l.isFull = err != nil
	full := l.full
	l.mu.Unlock()
	if err != nil {
		full(err)
	}
	return len(p), nil
}

// say adds a line of the builder's own; it is never cut off by the limit.
func (l *logFile) say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return
	}
	start := ""
	if len(l.tail) > 0 {
		start = "\n" // the command's last line has no end
		l.tail = nil
	}
	// A log that can't be written ends the build through Write; a notice alone does not.
	_ = l.put(fmt.Appendf(nil, start+"murmur: "+format+"\n", args...))
}

func (l *logFile) put(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	n, err := l.f.WriteAt(p, l.size)
	l.size += int64(n)
	if l.echo != nil {
		// Whoever watches may be gone; the log on disk is what counts.
		_, _ = l.echo.Write(p)
	}
	select {
	case l.grew <- struct{}{}:
	default:
	}
	return err
}

// remember keeps the last non-empty line for the error message.
func (l *logFile) remember(p []byte) {
	const limit = 300
	for len(p) > 0 {
		line, rest, ended := bytes.Cut(p, []byte("\n"))
		if room := limit - len(l.tail); room > 0 {
			l.tail = append(l.tail, line[:min(len(line), room)]...)
		}
		if !ended {
			return
		}
		if t := bytes.TrimSpace(l.tail); len(t) > 0 {
			l.last = append(l.last[:0], t...)
		}
		l.tail, p = l.tail[:0], rest
	}
}

// lastLine is the command's last non-empty line, made safe to show.
func (l *logFile) lastLine() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := bytes.TrimSpace(l.tail); len(t) > 0 {
		return oneLine(string(t))
	}
	return oneLine(string(l.last))
}

func (l *logFile) len() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// readFrom reads what there is from an offset, at most len(p).
func (l *logFile) readFrom(off int64, p []byte) (int, error) {
	l.mu.Lock()
	n := min(int64(len(p)), l.size-off)
	l.mu.Unlock()
	return l.f.ReadAt(p[:n], off)
}

// onFull sets what happens when the log takes no more.
func (l *logFile) onFull(fn func(error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = fn
}

func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.f
	l.f = nil
	return f.Close()
}

// ship sends the log to the control plane while it grows, until done is closed and all is sent, or the time for
// that is over. cancel is called when the control plane says the build was cancelled. What can't be sent is
// tried again and never fails the build: the log stays on the builder's disk.
func (l *logFile) ship(ctx context.Context, done <-chan struct{}, to Publisher, service, id string, cancel func(), log *slog.Logger) {
	s := shipper{log: l, to: to, service: service, id: id, cancel: cancel, buf: make([]byte, MaxLogPart)}
	pause := shipEvery
	for {
		select {
		case <-done:
			flush, stop := context.WithTimeout(context.WithoutCancel(ctx), shipFlush)
			defer stop()
			if err := s.all(flush); err != nil {
				log.Warn("the rest of the build's log was not sent", "build", id, "error", err, "sent", s.off)
			}
			return
		case <-l.grew:
		}
		if err := s.all(ctx); err != nil {
			pause = min(2*pause, shipBackoff)
			l.poke()
		} else {
			pause = shipEvery
		}
		select {
		case <-done:
		case <-time.After(pause):
		}
	}
}

// poke makes ship look again although nothing new was written.
func (l *logFile) poke() {
	select {
	case l.grew <- struct{}{}:
	default:
	}
}

type shipper struct {
	log         *logFile
	to          Publisher
	service, id string
	cancel      func()
	off         int64
	buf         []byte
}

func (s *shipper) all(ctx context.Context) error {
	for {
		n, err := s.log.readFrom(s.off, s.buf)
		if n == 0 {
			return err
		}
		cancelled, err := s.to.AppendLog(ctx, s.service, s.id, s.off, s.buf[:n])
		if err != nil {
			return err
		}
		if s.off += int64(n); cancelled {
			s.cancel()
		}
	}
}
