package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/murmuration/murmuration/agent/install"
	"github.com/murmuration/murmuration/internal/durable"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/release"
)

// ErrRunning is wrapped when another process holds the agent's folder.
var ErrRunning = errors.New("another agent runs on this folder")

// Agent is one host's agent. Make one with [New]; [Agent.Run] runs it once.
type Agent struct {
	cfg    Config
	log    *slog.Logger
	root   *os.Root
	lock   *os.File
	out    *outbox
	boot   string // new at every start
	events chan func(*loop)

	mu     sync.Mutex
	seeder string // the one attached to, "" while none is
}

// New checks the configuration, takes the lock of its folder and reads nothing else. Close releases the folder
// when Run is not called.
func New(cfg Config) (*Agent, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	root, lock, err := openRoot(cfg.Root)
	if err != nil {
		return nil, err
	}
	return &Agent{
		cfg: cfg, log: cfg.Logger, root: root, lock: lock, out: newOutbox(),
		boot: rand.Text(), events: make(chan func(*loop), 16),
	}, nil
}

// Close gives the folder up. It is called by Run at its end.
func (a *Agent) Close() error {
	return errors.Join(a.root.Close(), a.lock.Close())
}

// openRoot opens the agent's folder and locks it, so that an agent and the command line never both write there.
func openRoot(dir string) (*os.Root, *os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("make the agent's folder: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("open the agent's folder: %w", err)
	}
	if err := root.MkdirAll(path.Join(ownDir, "artifacts"), 0o700); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make the agent's folder: %w", err), root.Close())
	}
	lock, err := root.OpenFile(path.Join(ownDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open the lock: %w", err), root.Close())
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		err = fmt.Errorf("lock %s: %w", dir, ErrRunning)
		return nil, nil, errors.Join(err, lock.Close(), root.Close())
	}
	return root, lock, nil
}

// Run brings every service to what the host settled on last, goes on with what it was told last, and then does
// what the control plane says, until ctx ends. Services keep running when it returns.
func (a *Agent) Run(ctx context.Context) error {
	defer a.Close()
	if len(a.cfg.Seeders) > 0 {
		if err := a.cfg.attached(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	l, err := newLoop(ctx, a)
	if err != nil {
		return err
	}
	defer l.close()
	ctl, err := a.listenControl()
	if err != nil {
		return err
	}
	wg.Go(func() { a.serveControl(ctx, ctl) })
	if len(a.cfg.Seeders) > 0 {
		wg.Go(func() { a.attach(ctx) })
		wg.Go(func() { a.countAll(ctx) })
	}
	return l.run(ctx)
}

// do has fn run by the loop; it returns without waiting. After the agent's end it does nothing.
func (a *Agent) do(ctx context.Context, fn func(*loop)) {
	select {
	case a.events <- fn:
	case <-ctx.Done():
	}
}

// ask is do that waits for the end of fn.
func (a *Agent) ask(ctx context.Context, fn func(*loop)) error {
	done := make(chan struct{})
	a.do(ctx, func(l *loop) { fn(l); close(done) })
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *Agent) setSeeder(url string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seeder = url
}

// Seeder is the base URL of the seeder that last said what the host should be, "" while not attached.
func (a *Agent) Seeder() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seeder
}

// loop owns what the agent knows. Only the goroutine in run touches it; workers hand their results in by
// Agent.do. Of I/O it does one thing itself: it writes agent.json before it obeys.
type loop struct {
	a       *Agent
	desired *murmurv1.Desired
	units   map[string]*handle
	stages  map[string]*stage // by release id
	facts   *murmurv1.HostFacts
	wg      sync.WaitGroup
	ctx     context.Context // of the workers
}

// handle is the loop's end of a unit.
type handle struct {
	unit    *unit
	cmds    chan func(context.Context)
	snap    snapshot
	ready   map[string]bool // releases on disk
	busy    bool
	running *request
	abort   context.CancelCauseFunc
}

func newLoop(ctx context.Context, a *Agent) (*loop, error) {
	l := &loop{a: a, units: map[string]*handle{}, stages: map[string]*stage{}, ctx: ctx}
	var err error
	if l.desired, err = loadMemory(a.root); err != nil {
		a.log.Error("forgetting what the control plane said", "err", err)
	}
	names, err := installed(a.root)
	if err != nil {
		return nil, err
	}
	for _, t := range l.desired.GetServices() {
		if name := t.GetService(); release.CheckService(name) == nil && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if err := l.addUnit(name); err != nil {
			l.a.log.Error("open service", "service", name, "err", err) // the others go on
		}
	}
	l.measure()
	return l, nil
}

// installed lists the services that have a folder.
func installed(root *os.Root) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && release.CheckService(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// addUnit opens a service's folder and starts its goroutine, whose first work is to recover it.
func (l *loop) addUnit(name string) error {
	h := &handle{cmds: make(chan func(context.Context), 1), busy: true}
	u, err := openUnit(l.a.cfg, l.a.root, name, func(s snapshot) {
		l.a.do(l.ctx, func(l *loop) { l.reported(s) })
	})
	if err != nil {
		return err
	}
	h.unit, h.snap = u, snapshot{Service: name, Busy: true}
	l.units[name] = h
	l.wg.Go(func() {
		if err := u.recover(l.ctx); err != nil {
			u.log.Error("recover", "err", err)
			u.setIllness(fmt.Errorf("recover: %w", err))
		}
		j, ready := u.journal, u.ready()
		l.a.do(l.ctx, func(l *loop) { h.busy, h.snap.Journal, h.snap.Busy = false, j, false; h.setReady(ready) })
		u.serve(l.ctx, h.cmds)
		if err := u.close(); err != nil {
			u.log.Warn("close", "err", err)
		}
	})
	return nil
}

// close waits for the workers, whose context has ended or ends now.
func (l *loop) close() { l.wg.Wait() }

const factsEvery = time.Minute

func (l *loop) run(ctx context.Context) error {
	facts := time.NewTicker(factsEvery)
	defer facts.Stop()
	l.seedAll()
	l.reconcile()
	for {
		select {
		case <-ctx.Done():
			return nil
		case fn := <-l.a.events:
			fn(l)
		case <-facts.C:
			if l.measure() {
				l.a.out.put("facts", &murmurv1.AttachRequest{Report: &murmurv1.AttachRequest_Facts{Facts: l.facts}})
			}
		}
		l.reconcile()
	}
}

// measure reads the disk's size and reports whether free space changed by more than a hundredth of it.
func (l *loop) measure() bool {
	free, total, err := l.a.space()
	if err != nil {
		l.a.log.Warn("measure the disk", "err", err)
		return false
	}
	if l.facts != nil && total == l.facts.DiskTotal && max(free-l.facts.DiskFree, l.facts.DiskFree-free) <= total/100 {
		return false
	}
	l.facts = &murmurv1.HostFacts{DiskFree: free, DiskTotal: total}
	return true
}

func (a *Agent) space() (free, total int64, err error) {
	if a.cfg.freeSpace != nil {
		return a.cfg.freeSpace(a.cfg.Root)
	}
	return durable.FreeSpace(a.cfg.Root)
}

// told obeys a new order, unless it is older than one obeyed before.
func (l *loop) told(d *murmurv1.Desired) {
	if stale(d.GetOrder(), l.desired.GetOrder()) {
		l.a.log.Warn("stale order refused", "order", d.GetOrder(), "seen", l.desired.GetOrder())
		for _, t := range d.GetServices() {
			l.refused(t, d.GetOrder(), fmt.Sprintf("stale order: term %d revision %d, this host has obeyed term %d revision %d",
				d.GetOrder().GetTerm(), d.GetOrder().GetRevision(), l.desired.GetOrder().GetTerm(), l.desired.GetOrder().GetRevision()))
		}
		return
	}
	before := l.desired
	l.desired = d
	if err := saveMemory(l.a.root, d); err != nil {
		l.a.log.Error("an order is obeyed that a restart would forget", "err", err)
	}
	for _, t := range d.GetServices() {
		if err := release.CheckService(t.GetService()); err != nil {
			l.a.log.Error("order names no service", "err", err)
			continue
		}
		if l.units[t.GetService()] == nil {
			if err := l.addUnit(t.GetService()); err != nil {
				l.a.log.Error("open service", "service", t.GetService(), "err", err)
				continue
			}
		}
		if old := target(before, t.GetService()); old.GetRetry() != t.GetRetry() {
			l.retryStagesOf(t)
		}
		l.say(t.GetService()) // answers this order, even when it changes nothing
	}
}

// target is what an order says of a service, nil if nothing.
func target(d *murmurv1.Desired, service string) *murmurv1.ServiceTarget {
	for _, t := range d.GetServices() {
		if t.GetService() == service {
			return t
		}
	}
	return nil
}

// reconcile takes, for every service, the next step from what is to what should be.
func (l *loop) reconcile() {
	for name, h := range l.units {
		t := target(l.desired, name)
		w := wish{
			Stopped: l.desired.GetStopped(), Drained: l.desired.GetDrained(),
			Active: t.GetActive(), WayBack: t.GetWayBack(), Retry: t.GetRetry(),
		}
		if h.busy {
			if h.running != nil {
				if why := overtaken(w, *h.running); why != nil {
					h.abort(why)
				}
			}
			continue
		}
		l.stageAll(h, t)
		j := h.snap.Journal
		act, req := decide(w, have{
			Busy: h.busy, Active: j.Active, Stopped: j.Stopped, Last: j.Last, Pin: j.Pin, Ready: func(id string) bool { return h.ready[id] },
		})
		switch act {
		case doActivate:
			l.activate(h, req)
		case doHalt:
			l.command(h, h.unit.halt)
		case doUnhalt:
			l.command(h, h.unit.unhalt)
		case doUnpin:
			l.command(h, func(context.Context) { h.unit.unpin() })
		default:
			l.clean(h, t)
		}
	}
}

func (l *loop) activate(h *handle, req request) {
	abort, cancel := context.WithCancelCause(l.ctx)
	h.running, h.abort = &req, cancel
	l.command(h, func(ctx context.Context) {
		defer cancel(nil)
		h.unit.activate(ctx, abort, req)
	})
}

// command hands the unit work. The unit is idle, so the channel has room.
func (l *loop) command(h *handle, fn func(context.Context)) {
	h.busy = true
	h.cmds <- func(ctx context.Context) {
		fn(ctx)
		// Queued before the report that follows it, so the loop decides on what the work has led to.
		j := h.unit.journal
		l.a.do(l.ctx, func(*loop) { h.busy, h.running, h.snap.Journal, h.snap.Busy = false, nil, j, false })
	}
}

// reported takes a unit's news.
func (l *loop) reported(s snapshot) {
	h := l.units[s.Service]
	if h == nil {
		return
	}
	h.snap = s
	h.setReady(s.Ready)
	l.say(s.Service)
}

func (h *handle) setReady(ids []string) {
	h.ready = make(map[string]bool, len(ids))
	for _, id := range ids {
		h.ready[id] = true
	}
}

// pinned reports what a local rollback holds, for status.
func pinned(j install.Journal) string {
	if j.Pin == nil {
		return ""
	}
	return fmt.Sprintf("held on %s by a local rollback from %s since %s: %s", j.Pin.To, j.Pin.From, j.Pin.At.Format(time.RFC3339), j.Pin.Reason)
}
