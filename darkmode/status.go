package darkmode

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Source is where a state comes from.
type Source uint8

// The sources, from the last to the first in the order of truth.
const (
	FromDefaults  Source = iota // there is no state: the defaults in the calls answer
	FromBootstrap               // shipped with the program
	FromDisk                    // the disk copy of a process before this one
	FromServer                  // a server, in this process
)

// String names the source.
func (s Source) String() string {
	names := [...]string{"defaults", "bootstrap", "disk", "server"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("source %d", s)
}

// Status is what a client knows about its own state.
type Status struct {
	Source Source
	// Revision is the store's revision that the state stands for; 0 without a state.
	Revision uint64
	// Flags is how many flags the state has.
	Flags int
	// AsOf is when a server last confirmed the state, by the local clock; zero when none ever did, as far as is known.
	AsOf time.Time
	// Stale says that no server was heard of for [Config.StaleAfter]. A state that is not from a server is stale.
	Stale bool
	// Connected says that an event stream is open.
	Connected bool
	// LastError is the last thing that went wrong with the server, the disk copy or the bootstrap; nil when
	// all has been well since.
	LastError error
}

// Age is how long ago a server last confirmed the state, and whether one ever did.
func (s Status) Age(now time.Time) (time.Duration, bool) {
	if s.AsOf.IsZero() {
		return 0, false
	}
	return max(0, now.Sub(s.AsOf)), true
}

// EventKind says what happened.
type EventKind uint8

// The kinds of event.
const (
	// FlagsChanged: some flags may now answer differently; all handles have the new state.
	FlagsChanged EventKind = iota + 1
	// Fresh: the state is confirmed by a server, for the first time or again after Stale.
	Fresh
	// Stale: no server was heard of for [Config.StaleAfter].
	Stale
	// Trouble: the server refused or sent something unusable; the state goes on. Status.LastError says what.
	Trouble
)

// Event is news about a client.
type Event struct {
	Kind EventKind
	// Keys are the flags of FlagsChanged, in order.
	Keys   []string
	Status Status
}

type subscriber struct{ fn func(Event) }

// Subscribe has fn called for every event from now on, in order, by one goroutine at a time. fn must return soon
// and must not call Close or Subscribe; reads are fine. The returned function ends it; a call under way may
// still finish after that.
func (c *Client) Subscribe(fn func(Event)) (cancel func()) {
	s := &subscriber{fn}
	c.subMu.Lock()
	defer c.subMu.Unlock()
	c.subs = append(slices.Clone(c.subs), s)
	return func() {
		c.subMu.Lock()
		defer c.subMu.Unlock()
		c.subs = slices.DeleteFunc(slices.Clone(c.subs), func(x *subscriber) bool { return x == s })
	}
}

// emit calls the subscribers, one event after the other.
func (c *Client) emit(kind EventKind, keys []string) {
	c.emitMu.Lock()
	defer c.emitMu.Unlock()
	c.emitLocked(kind, keys)
}

func (c *Client) emitLocked(kind EventKind, keys []string) {
	c.subMu.Lock()
	subs := c.subs
	c.subMu.Unlock()
	if len(subs) == 0 {
		return
	}
	e := Event{Kind: kind, Keys: keys, Status: c.Status()}
	for _, s := range subs {
		s.fn(e)
	}
}

// Status tells where the state comes from and how it is.
func (c *Client) Status() Status {
	s := c.state.Load()
	c.healthMu.Lock()
	h := c.health
	c.healthMu.Unlock()
	return Status{
		Source: s.source, Revision: s.revision, Flags: s.set.Len(), AsOf: h.asOf, Connected: h.connected, LastError: h.lastError,
		Stale: s.source != FromServer || h.heard.IsZero() || time.Since(h.heard) >= c.cfg.StaleAfter,
	}
}

// health is what is known of the server.
type health struct {
	// heard is when the server was last heard of in this process, asOf also counts the process before.
	heard, asOf time.Time
	connected   bool
	told        bool // that the state is stale
	lastError   error
}

// confirmed notes that the server is there and the state is its own.
func (c *Client) confirmed() {
	now := time.Now()
	c.healthMu.Lock()
	news := c.health.heard.IsZero() || c.health.told
	c.health.heard, c.health.asOf, c.health.lastError = now, now.Round(0), nil
	c.healthMu.Unlock()
	c.readyOnce.Do(func() { close(c.ready) })
	if !news {
		return
	}
	c.emitMu.Lock()
	defer c.emitMu.Unlock()
	c.setTold(false)
	c.emitLocked(Fresh, nil)
}

// runStale tells when the server was not heard of for too long.
func (c *Client) runStale(ctx context.Context) {
	last := time.Now()
	for wait := c.cfg.StaleAfter; sleep(ctx, wait); {
		c.healthMu.Lock()
		if h := c.health.heard; h.After(last) {
			last = h
		}
		told := c.health.told
		c.healthMu.Unlock()
		if wait = c.cfg.StaleAfter - time.Since(last); wait > 0 {
			continue
		}
		wait = c.cfg.StaleAfter
		if !told {
			c.emitMu.Lock()
			c.setTold(true)
			c.emitLocked(Stale, nil)
			c.emitMu.Unlock()
		}
	}
}

func (c *Client) setTold(told bool) {
	c.healthMu.Lock()
	c.health.told = told
	c.healthMu.Unlock()
}

func (c *Client) setConnected(connected bool) {
	c.healthMu.Lock()
	c.health.connected = connected
	c.healthMu.Unlock()
}

// trouble notes what went wrong.
func (c *Client) trouble(err error) {
	c.healthMu.Lock()
	c.health.lastError = err
	c.healthMu.Unlock()
	c.cfg.Logger.Warn("flags: going on with the last good state", "source", c.state.Load().source.String(), "err", err)
}
