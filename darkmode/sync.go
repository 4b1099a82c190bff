package darkmode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"sync/atomic"
	"time"
)

const (
	// helloTimeout bounds the wait for the first event of a stream; a server that lags may wait 2 s by itself.
	helloTimeout = 15 * time.Second
	// The bounds of the heartbeat that a server may announce.
	minHeartbeat, maxHeartbeat = time.Second, 5 * time.Minute
)

var (
	errSilent  = errors.New("the stream is silent")
	errNoHello = errors.New("the stream did not begin with hello")
)

// runSync holds a stream open and polls where that cannot be.
func (c *Client) runSync(ctx context.Context) {
	c.server.Store(rand.Uint64N(uint64(len(c.servers))))
	for failures := 0; ctx.Err() == nil; {
		s, begun := &session{c: c}, time.Now()
		err := s.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil || s.hello && time.Since(begun) > c.cfg.MaxBackoff {
			failures = 0
		}
		wait := c.waitAfter(s, err, failures)
		failures++
		c.setConnected(false)
		if err != nil {
			c.server.Add(1)
			c.trouble(err)
			c.emit(Trouble, nil)
		}
		if !c.pause(ctx, wait, c.mayPoll(s, err)) {
			return
		}
	}
}

// waitAfter is how long to wait before the next attempt, jittered.
func (c *Client) waitAfter(s *session, err error, failures int) time.Duration {
	var status *statusError
	if errors.As(err, &status) && status.wait > 0 {
		return status.wait + rand.N(status.wait/2+1) // the server jitters too; this keeps those apart who were told the same
	}
	wait := c.cfg.MinBackoff
	for range min(failures, 32) {
		wait = min(2*wait, c.cfg.MaxBackoff)
	}
	if s.retry > 0 && failures == 0 {
		wait = s.retry
	}
	return wait/2 + rand.N(wait/2+1)
}

// mayPoll reports whether snapshots are worth asking for while there is no stream: a server is there, and it is
// the stream that does not work.
func (c *Client) mayPoll(s *session, err error) bool {
	if s.hello {
		return false
	}
	var status *statusError
	if errors.As(err, &status) {
		return !status.refused()
	}
	return errors.Is(err, errNotAStream) || errors.Is(err, errNoHello) || errors.Is(err, errSilent)
}

// pause waits before the next attempt, polling meanwhile when it may. It reports false when ctx ended.
func (c *Client) pause(ctx context.Context, wait time.Duration, mayPoll bool) bool {
	next := time.NewTimer(wait)
	defer next.Stop()
	poll := time.NewTimer(0)
	defer poll.Stop()
	if !mayPoll {
		poll.Stop()
	} else if left := c.cfg.PollInterval - time.Since(c.lastPoll); left > 0 && !c.lastPoll.IsZero() {
		poll.Reset(left)
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-poll.C:
			c.lastPoll = time.Now()
			if err := c.poll(ctx); err != nil && ctx.Err() == nil {
				c.trouble(err)
			}
			poll.Reset(c.cfg.PollInterval*3/4 + rand.N(c.cfg.PollInterval/2+1))
		case <-next.C:
			return true
		}
	}
}

// settleTime is how long after hello a server that has news would have sent it.
const settleTime = time.Second

// session is one stream.
type session struct {
	c     *Client
	id    string // of the stream, for acks
	hello bool   // it came
	// synced says that the state is the server's own: a reset or a delta came, or nothing did for a while after a
	// hello that is not behind us.
	synced atomic.Bool
	retry  time.Duration
	quiet  time.Duration // how long the stream may be silent
}

// run opens a stream and applies its events until it ends. A stream that the server ended is no error once it
// has begun.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.quiet = helloTimeout
	watchdog := time.AfterFunc(s.quiet, func() { cancel(errSilent) })
	defer watchdog.Stop()
	resp, err := s.c.openStream(ctx)
	if err != nil {
		return orCause(ctx, err)
	}
	defer resp.Body.Close()
	body := &watched{r: resp.Body, heard: func() { watchdog.Reset(s.quiet); s.heard() }}
	events := newSSEReader(body, s.c.cfg.MaxBytes)
	for {
		e, err := events.next()
		s.retry = events.retry
		if err != nil {
			return s.ended(orCause(ctx, err))
		}
		if err := s.take(ctx, e); err != nil {
			return err
		}
	}
}

// ended is nil for a stream that began and was ended cleanly.
func (s *session) ended(err error) error {
	switch {
	case errors.Is(err, io.EOF) && s.hello:
		return nil
	case errors.Is(err, io.EOF):
		return errNoHello
	}
	return fmt.Errorf("read stream: %w", err)
}

// orCause replaces the error of a cancelled request by why it was cancelled.
func orCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// heard is called for all that arrives, heartbeats too.
func (s *session) heard() {
	if s.synced.Load() {
		s.c.confirmed()
	}
}

// watched tells of every read.
type watched struct {
	r     io.Reader
	heard func()
}

// Read reads on.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.heard()
	}
	return n, err
}

// take applies one event. An error ends the stream: what follows an event that could not be read cannot be trusted
// to fit the state.
func (s *session) take(ctx context.Context, e sseEvent) error {
	if !s.hello && e.name != "hello" {
		return errNoHello
	}
	switch e.name {
	case "hello":
		return s.takeHello(ctx, e.data)
	case "reset":
		snap, err := decodeSnapshot(e.data)
		if err != nil {
			return fmt.Errorf("reset: %w", err)
		}
		s.c.replace(snap, FromServer)
	case "delta":
		m, err := decodeMessage(e.data)
		if err != nil {
			return fmt.Errorf("delta: %w", err)
		}
		s.c.apply(FromServer, func(st *state) (*state, error) { return st.changed(m) })
		s.c.wantAck(s.id, m)
	case "kill":
		m, err := decodeMessage(e.data)
		if err != nil {
			return fmt.Errorf("kill: %w", err)
		}
		s.c.apply(FromServer, func(st *state) (*state, error) { return st.killed(m) })
		s.c.wantAck(s.id, m)
		return nil
	default:
		return nil
	}
	s.settled()
	return nil
}

func (s *session) settled() {
	s.synced.Store(true)
	s.c.confirmed()
}

func (s *session) takeHello(ctx context.Context, data []byte) error {
	var h struct {
		Stream      string `json:"stream"`
		Revision    uint64 `json:"revision"`
		HeartbeatMS int64  `json:"heartbeat_ms"`
	}
	if err := json.Unmarshal(data, &h); err != nil || len(h.Stream) > maxName {
		return fmt.Errorf("%w: %q", errNoHello, data[:min(len(data), 80)])
	}
	s.hello, s.id = true, h.Stream
	s.c.setConnected(true)
	s.quiet = min(max(time.Duration(h.HeartbeatMS)*time.Millisecond, minHeartbeat), maxHeartbeat) * 5 / 2
	switch since := s.c.since(); {
	case since == 0 || since > h.Revision:
	case since == h.Revision:
		s.c.adopt()
		s.settled()
	default: // a server whose news are not about flags sends nothing more
		s.c.wg.Go(func() {
			if sleep(ctx, settleTime) && !s.synced.Load() {
				s.c.adopt()
				s.settled()
			}
		})
	}
	return nil
}

// adopt makes a state from disk the server's own: it has just said that the revision is its newest.
func (c *Client) adopt() {
	c.apply(FromServer, func(st *state) (*state, error) {
		if st.source == FromServer {
			return nil, nil
		}
		next := *st
		next.source = FromServer
		return &next, nil
	})
}

// ack is what a server asked to be told.
type ack struct {
	stream   string
	revision uint64
}

// wantAck queues an acknowledgement. A newer one takes the place of one that waits.
func (c *Client) wantAck(stream string, m message) {
	if !m.Ack || stream == "" {
		return
	}
	for {
		select {
		case c.acks <- ack{stream, m.Revision}:
			return
		default:
		}
		select {
		case <-c.acks:
		default:
		}
	}
}

// ackJitter keeps the acknowledgements of a whole fleet from meeting the deliveries that are still under way.
const ackJitter = 50 * time.Millisecond

// runAcks sends acknowledgements. They are for people to watch a kill spread: one that is lost does no harm.
func (c *Client) runAcks(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-c.acks:
			if !sleep(ctx, rand.N(ackJitter)) {
				return
			}
			path := "/v1/streams/" + url.PathEscape(a.stream) + "/ack"
			if err := c.post(ctx, path, map[string]uint64{"revision": a.revision}); err != nil {
				c.cfg.Logger.Debug("flags: acknowledgement not sent", "err", err)
			}
		}
	}
}
