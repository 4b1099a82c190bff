package seeder

import "sync"

// notifier lets any number of waiters learn that something changed, without a queue: a waiter takes the
// channel of [notifier.wait], looks at the state, and sleeps until the channel is closed. The zero value works.
type notifier struct {
	mu sync.Mutex
	ch chan struct{}
}

// wait returns a channel that is closed at the next change.
func (n *notifier) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil {
		n.ch = make(chan struct{})
	}
	return n.ch
}

// changed wakes everyone who waits.
func (n *notifier) changed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch != nil {
		close(n.ch)
		n.ch = nil
	}
}

// dirtySet gathers the names of things that changed until its reader takes them: however fast they change, it
// holds each at most once and never blocks the writer.
type dirtySet struct {
	mu   sync.Mutex
	set  map[string]struct{}
	wake chan struct{}
}

func newDirtySet() *dirtySet {
	return &dirtySet{set: map[string]struct{}{}, wake: make(chan struct{}, 1)}
}

// mark adds names and wakes the reader.
func (d *dirtySet) mark(names ...string) {
	d.mu.Lock()
	for _, n := range names {
		d.set[n] = struct{}{}
	}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// take empties the set and returns what was in it.
func (d *dirtySet) take() map[string]struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.set) == 0 {
		return nil
	}
	out := d.set
	d.set = map[string]struct{}{}
	return out
}
