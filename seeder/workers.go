package seeder

import "sync"

// workers runs a reign's goroutines and lets it wait for them. Work in one lane runs one piece after the other.
type workers struct {
	wg    sync.WaitGroup
	mu    sync.Mutex
	lanes map[string][]func() // waiting behind the one that runs
}

func (w *workers) goDo(f func()) { w.wg.Go(f) }

// inLane runs f after everything put into the lane before it.
func (w *workers) inLane(name string, f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lanes == nil {
		w.lanes = map[string][]func(){}
	}
	if waiting, busy := w.lanes[name]; busy {
		w.lanes[name] = append(waiting, f)
		return
	}
	w.lanes[name] = nil
	w.wg.Go(func() { w.drain(name, f) })
}

func (w *workers) drain(name string, f func()) {
	for f != nil {
		f()
		f = w.next(name)
	}
}

func (w *workers) next(name string) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	waiting := w.lanes[name]
	if len(waiting) == 0 {
		delete(w.lanes, name)
		return nil
	}
	w.lanes[name] = waiting[1:]
	return waiting[0]
}

func (w *workers) wait() { w.wg.Wait() }

// leaderFlag says whether this process leads, and lets others wait for the end of it. The zero value says no.
type leaderFlag struct {
	mu sync.Mutex
	ch chan struct{}
}

func (f *leaderFlag) set(leading bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case leading && f.ch == nil:
		f.ch = make(chan struct{})
	case !leading && f.ch != nil:
		close(f.ch)
		f.ch = nil
	}
}

// ended returns a channel closed when the leadership ends; nil when this process does not lead.
func (f *leaderFlag) ended() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ch
}
