package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// rotateEvery is how often the size of a running service's log is looked at.
const rotateEvery = 2 * time.Second

// watch begins to look after the current process in a goroutine of its own.
func (p *Process) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	p.mu.Lock()
	p.watched = cancel
	cur := p.cur
	p.mu.Unlock()
	p.done.Go(func() { p.supervise(ctx, cur) })
}

// unwatch ends supervision and waits until it has ended: from then on nothing restarts the process.
func (p *Process) unwatch() {
	p.mu.Lock()
	cancel := p.watched
	p.watched = nil
	p.mu.Unlock()
	if cancel != nil {
		cancel()
		p.done.Wait()
	}
}

// rewatch looks after what is left after a failed start.
func (p *Process) rewatch() {
	if p.current() != nil {
		p.watch()
	}
}

// supervise restarts the process whenever it ends, until ctx does.
func (p *Process) supervise(ctx context.Context, cur *proc) {
	logs := time.NewTicker(rotateEvery)
	defer logs.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-logs.C:
			if err := p.rotate(); err != nil && !errors.Is(err, fs.ErrNotExist) {
				p.log.Warn("turn over the service's log", "err", err)
			}
		case <-cur.exited:
			if cur = p.restart(ctx, cur); cur == nil {
				return
			}
		}
	}
}

// restart brings the process up again, as often and as slowly as it takes. It returns nil when ctx ended.
func (p *Process) restart(ctx context.Context, dead *proc) *proc {
	detail := dead.how
	for {
		pause := p.crashed(detail)
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		next, err := p.relaunch()
		if err == nil {
			return next
		}
		detail = err.Error()
	}
}

// crashed counts a crash, tells the owner, and returns how long to wait before the next try.
func (p *Process) crashed(detail string) time.Duration {
	now := time.Now()
	p.mu.Lock()
	recent := p.crashes[:0]
	for _, at := range p.crashes {
		if now.Sub(at) < p.tune.Window {
			recent = append(recent, at)
		}
	}
	p.crashes = append(recent, now)
	n := len(p.crashes)
	pause := min(p.tune.Backoff<<min(n-1, 20), p.tune.MaxBackoff)
	p.status.Running, p.status.PID = false, 0
	p.status.Looping = p.status.Looping || n >= p.tune.MaxCrashes
	p.status.Detail = fmt.Sprintf("the process %s; crash %d within %v", detail, n, p.tune.Window)
	if p.status.Looping {
		p.status.Detail = "crash loop: " + p.status.Detail
	}
	status := p.status
	p.mu.Unlock()
	p.log.Warn("service crashed", "release", status.Release, "detail", detail, "restart_in", pause)
	p.changed()
	return pause
}

// relaunch starts the current release again on the sockets held.
func (p *Process) relaunch() (*proc, error) {
	p.mu.Lock()
	spec, socks := p.spec, p.socks
	p.mu.Unlock()
	argv, err := spec.argv()
	if err != nil {
		return nil, err
	}
	next, err := p.launch(spec, argv, socks, nil)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.cur = next
	p.status.Running, p.status.PID = true, next.pid
	p.status.Restarts++
	p.mu.Unlock()
	p.changed()
	return next, nil
}
