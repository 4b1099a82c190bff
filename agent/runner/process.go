package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Tuning bounds how a [Process] reacts. Zero fields take the defaults.
type Tuning struct {
	// Settle is how long a new process must stay up before the old one is told to end. Default 500 ms.
	Settle time.Duration
	// Backoff and MaxBackoff bound the pause before a restart; it doubles with every crash. Defaults 200 ms
	// and 30 s.
	Backoff, MaxBackoff time.Duration
	// MaxCrashes within Window make a crash loop. Defaults 5 and 1 min.
	MaxCrashes int
	Window     time.Duration
	// MaxLog is the size at which the log file is turned over; one older file is kept. Default 8 MiB.
	MaxLog int64
}

func (t Tuning) withDefaults() Tuning {
	t.Settle = cmp.Or(t.Settle, 500*time.Millisecond)
	t.Backoff = cmp.Or(t.Backoff, 200*time.Millisecond)
	t.MaxBackoff = cmp.Or(t.MaxBackoff, 30*time.Second)
	t.MaxCrashes = cmp.Or(t.MaxCrashes, 5)
	t.Window = cmp.Or(t.Window, time.Minute)
	t.MaxLog = cmp.Or(t.MaxLog, 8<<20)
	return t
}

// Process runs a service as a process; see the package's doc. Make one with [NewProcess].
type Process struct {
	root    *os.Root // the service's folder: run.json and log/
	mark    func() string
	log     *slog.Logger
	changed func()
	tune    Tuning

	mu      sync.Mutex
	spec    Spec
	cur     *proc
	socks   []socket
	status  Status
	crashes []time.Time
	watched context.CancelFunc // ends supervision of cur
	done    sync.WaitGroup
}

// NewProcess returns a runner that keeps its records and the log below root, the service's folder, which stays
// the caller's. Changed is called, never under a lock, after the status changed by itself; it must not block.
func NewProcess(root *os.Root, log *slog.Logger, tune Tuning, changed func()) *Process {
	return &Process{root: root, mark: newMark, log: log, changed: changed, tune: tune.withDefaults()}
}

// Start implements [Runner]. A new process that ends within the settling time fails the start; what ran before
// then runs on if the release has ports.
func (p *Process) Start(ctx context.Context, spec Spec) error {
	argv, err := spec.argv()
	if err != nil {
		return err
	}
	p.unwatch()
	keep, err := p.takeSockets(ctx, spec)
	if err != nil {
		p.rewatch()
		return fmt.Errorf("%w: %w", ErrStart, err)
	}
	old := p.current()
	if len(spec.Ports) == 0 && old != nil {
		old.stop(ctx, p.oldSpec().stopTimeout())
		old = nil
	}
	next, err := p.launch(spec, argv, keep, old)
	if err == nil {
		err = p.settle(ctx, next)
	}
	if err != nil {
		p.forget(keep, old)
		p.rewatch()
		return fmt.Errorf("%w: %w", ErrStart, err)
	}
	if old != nil {
		old.stop(ctx, p.oldSpec().stopTimeout())
	}
	p.install(spec, next, keep)
	return nil
}

// settle waits until the new process has stayed up for a moment.
func (p *Process) settle(ctx context.Context, next *proc) error {
	t := time.NewTimer(p.tune.Settle)
	defer t.Stop()
	select {
	case <-next.exited:
		return fmt.Errorf("it %s right after its start; the end of its log: %s", next.how, p.logTail())
	case <-ctx.Done():
		next.signal(unix.SIGKILL)
		<-next.exited
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// install makes next the current process and begins to look after it.
func (p *Process) install(spec Spec, next *proc, keep []socket) {
	p.mu.Lock()
	for _, s := range p.socks {
		if !slices.ContainsFunc(keep, func(k socket) bool { return k.fd == s.fd }) {
			_ = unix.Close(s.fd)
		}
	}
	p.spec, p.cur, p.socks, p.crashes = spec, next, keep, nil
	p.status = Status{Running: true, Release: spec.Release, PID: next.pid, Addrs: addrs(keep)}
	p.mu.Unlock()
	p.save(next)
	p.watch()
}

// forget gives up a failed start: sockets opened for it are closed, and only old is on record.
func (p *Process) forget(keep []socket, old *proc) {
	p.mu.Lock()
	for _, k := range keep {
		if !slices.ContainsFunc(p.socks, func(s socket) bool { return k.fd == s.fd }) {
			_ = unix.Close(k.fd)
		}
	}
	if old == nil {
		p.cur = nil
		p.status.Running, p.status.PID = false, 0
	}
	p.mu.Unlock()
	p.save(old)
}

// Stop implements [Runner]. It also closes the sockets: a stopped service refuses connections.
func (p *Process) Stop(ctx context.Context) error {
	p.unwatch()
	if old := p.current(); old != nil {
		old.stop(ctx, p.oldSpec().stopTimeout())
	}
	p.mu.Lock()
	for _, s := range p.socks {
		_ = unix.Close(s.fd)
	}
	p.cur, p.socks = nil, nil
	p.status = Status{Release: p.spec.Release}
	p.mu.Unlock()
	p.save()
	return nil
}

// Status implements [Runner].
func (p *Process) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	s.Addrs = maps.Clone(s.Addrs)
	return s
}

// Detach implements [Runner]. The process and its sockets live on in the process itself.
func (p *Process) Detach() {
	p.unwatch()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur != nil {
		_ = p.cur.pidfd.Close()
	}
	for _, s := range p.socks {
		_ = unix.Close(s.fd)
	}
	p.cur, p.socks = nil, nil
}

func (p *Process) current() *proc {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur != nil && !p.cur.alive() {
		p.cur = nil
	}
	return p.cur
}

func (p *Process) oldSpec() Spec {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spec
}

// takeSockets returns a socket for each port: the one held, or a new one.
func (p *Process) takeSockets(ctx context.Context, spec Spec) ([]socket, error) {
	p.mu.Lock()
	held := slices.Clone(p.socks)
	p.mu.Unlock()
	var keep, fresh []socket
	for _, port := range spec.Ports {
		if i := slices.IndexFunc(held, func(s socket) bool { return s.sameListen(port) }); i >= 0 {
			s := held[i]
			s.Listen = port.Listen
			keep = append(keep, s)
			continue
		}
		s, err := openSocket(ctx, port)
		if err != nil {
			for _, f := range fresh {
				_ = unix.Close(f.fd)
			}
			return nil, err
		}
		keep, fresh = append(keep, s), append(fresh, s)
	}
	return keep, nil
}

func addrs(socks []socket) map[string]string {
	m := make(map[string]string, len(socks))
	for _, s := range socks {
		m[s.Name] = s.Addr
	}
	return m
}

// errGone says that a process on record is not there any more.
var errGone = errors.New("the process is gone")
