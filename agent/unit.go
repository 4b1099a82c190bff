package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/murmuration/murmuration/agent/install"
	"github.com/murmuration/murmuration/agent/probe"
	"github.com/murmuration/murmuration/agent/runner"
	"github.com/murmuration/murmuration/internal/artifact"
	"github.com/murmuration/murmuration/release"
)

// unit is one service on this host. One goroutine at a time calls its methods; nothing else writes its folder.
// The main loop runs it in a goroutine of its own (see [unit.serve]); the command line calls it directly when no
// agent runs.
type unit struct {
	cfg  Config
	name string
	log  *slog.Logger
	dir  *install.Dir

	journal install.Journal
	runners map[release.Runner]runner.Runner
	kind    release.Runner // of what runs
	// firstPort is the name of its first port, where its counters are looked for.
	firstPort string
	watch     context.CancelFunc
	drift     []string

	// changed is poked when a runner or a health check has news.
	changed chan struct{}
	report  func(snapshot)

	mu        sync.Mutex
	unhealthy error // what the watch of the running release says
}

// snapshot is what a unit says of itself. Nobody changes it.
type snapshot struct {
	Service string
	Journal install.Journal
	Run     runner.Status
	Busy    bool // an activation or a stop is under way
	Ill     error
	Drift   []string
	Ready   []string // releases on disk, oldest first
	Metrics string   // where the running release's counters are
}

func openUnit(cfg Config, root *os.Root, name string, report func(snapshot)) (*unit, error) {
	dir, err := install.Open(root, name, cfg.step)
	if err != nil {
		return nil, err
	}
	return &unit{
		cfg: cfg, name: name, log: cfg.Logger.With("service", name), dir: dir, report: report,
		changed: make(chan struct{}, 1), runners: map[release.Runner]runner.Runner{},
	}, nil
}

func (u *unit) close() error {
	u.unwatch()
	for _, r := range u.runners {
		r.Detach()
	}
	return u.dir.Close()
}

func (u *unit) poke() {
	select {
	case u.changed <- struct{}{}:
	default:
	}
}

// ready lists the releases on disk, oldest first.
func (u *unit) ready() []string {
	ids, err := u.dir.List()
	if err != nil {
		u.log.Error("list releases", "err", err)
	}
	return ids
}

func (u *unit) publish(busy bool) {
	s := snapshot{Service: u.name, Journal: u.journal, Busy: busy, Ready: u.ready(), Drift: u.drift, Ill: u.illness()}
	s.Journal.Last.Scripts = slices.Clone(s.Journal.Last.Scripts)
	if r := u.runners[u.kind]; r != nil {
		s.Run = r.Status()
	}
	s.Metrics = cmp.Or(u.cfg.Metrics[u.name], metricsURL(s.Run.Addrs, u.firstPort))
	u.report(s)
}

func (u *unit) illness() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.unhealthy
}

func (u *unit) setIllness(err error) {
	u.mu.Lock()
	u.unhealthy = err
	u.mu.Unlock()
	u.poke()
}

// live is a release with all that is needed to run it.
type live struct {
	manifest release.Manifest
	spec     runner.Spec
}

// load reads a release from disk and fits it to this host.
func (u *unit) load(id string) (live, error) {
	if !u.dir.Has(id) {
		return live{}, fmt.Errorf("release %s of %s: %w", id, u.name, install.ErrNoRelease)
	}
	_, m, err := u.dir.Load(id)
	if err != nil {
		return live{}, err
	}
	m.Recipe = m.Recipe.WithDefaults()
	ports := slices.Clone(m.Recipe.Ports)
	for i, p := range ports {
		ports[i].Listen = cmp.Or(u.cfg.Listen[u.name+"/"+p.Name], p.Listen)
	}
	return live{manifest: m, spec: runner.Spec{
		Service: u.name, Release: id, Dir: u.dir.Path(id), Run: m.Recipe.Run, Ports: ports,
		Env: u.environ(id, "run"),
	}}, nil
}

// environ is the whole environment of a script or process: nothing of the agent's own but where programs are.
func (u *unit) environ(id, phase string) []string {
	return []string{
		"PATH=" + cmp.Or(os.Getenv("PATH"), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
		"HOME=" + cmp.Or(os.Getenv("HOME"), "/"), "LANG=C.UTF-8", "TZ=" + os.Getenv("TZ"),
		"MURMUR_SERVICE=" + u.name, "MURMUR_RELEASE=" + id, "MURMUR_PREVIOUS=" + u.journal.Active,
		"MURMUR_PHASE=" + phase, "MURMUR_ROOT=" + u.cfg.Root, "MURMUR_HOST=" + u.cfg.HostID,
	}
}

func (u *unit) checks(l live) probe.Checks {
	c := probe.Checks{List: l.manifest.Recipe.Health, Dir: l.spec.Dir, Env: u.environ(l.spec.Release, "health")}
	c.Addrs = u.runner(l.spec.Run.Kind).Status().Addrs
	if len(l.spec.Ports) > 0 {
		c.First = l.spec.Ports[0].Name
	}
	return c
}

// runner returns the runner of a kind, made when first needed.
func (u *unit) runner(kind release.Runner) runner.Runner {
	if r, ok := u.runners[kind]; ok {
		return r
	}
	var r runner.Runner
	switch kind {
	case release.RunProcess:
		r = runner.NewProcess(u.dir.Root(), u.log, u.cfg.Tuning, u.poke)
	case release.RunSystemd:
		r = runner.NewSystemd(u.cfg.Bus)
	case release.RunCommands:
		r = runner.NewCommands(u.dir.Root())
	default:
		r = &runner.Files{}
	}
	u.runners[kind] = r
	return r
}

// start makes a release run in place of whatever runs, also when that runs in another way.
func (u *unit) start(ctx context.Context, l live) error {
	kind := l.spec.Run.Kind
	if u.kind != "" && u.kind != kind {
		if err := u.runner(u.kind).Stop(ctx); err != nil {
			u.log.Warn("stop what ran in another way", "kind", u.kind, "err", err)
		}
	}
	u.kind = kind
	return u.runner(kind).Start(ctx, l.spec)
}

func (u *unit) stop(ctx context.Context) error {
	u.unwatch()
	if u.kind == "" {
		return nil
	}
	return u.runner(u.kind).Stop(ctx)
}

// watchHealth looks after the running release until unwatch.
func (u *unit) watchHealth(l live) {
	u.unwatch()
	ctx, cancel := context.WithCancel(context.Background())
	u.watch = cancel
	checks := u.checks(l)
	u.firstPort = checks.First
	go checks.Watch(ctx, func(err error) {
		if ctx.Err() == nil {
			u.setIllness(err)
		}
	})
}

func (u *unit) unwatch() {
	if u.watch != nil {
		u.watch()
		u.watch = nil
	}
	u.mu.Lock()
	u.unhealthy = nil
	u.mu.Unlock()
}

// awaitHealth returns nil when the release is healthy, and early when it keeps crashing.
func (u *unit) awaitHealth(ctx context.Context, l live) error {
	r := u.runner(l.spec.Run.Kind)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-u.changed:
				if s := r.Status(); s.Looping {
					cancel(fmt.Errorf("%w: %s", probe.ErrUnhealthy, s.Detail))
				}
			}
		}
	}()
	return u.checks(l).Await(ctx)
}

// driftLimit is how many differing paths are reported.
const driftLimit = 20

// checkDrift compares the active release's files with its index. It reports whether the answer changed.
func (u *unit) checkDrift(ctx context.Context, deep bool) bool {
	before := u.drift
	u.drift = nil
	if id := u.journal.Active; id != "" && u.dir.Has(id) {
		found, err := u.findDrift(ctx, id, deep)
		if err != nil {
			u.log.Warn("look for drift", "release", id, "err", err)
		}
		u.drift = found
	}
	return !slices.Equal(before, u.drift)
}

func (u *unit) findDrift(ctx context.Context, id string, deep bool) ([]string, error) {
	_, m, err := u.dir.Load(id)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenInRoot(u.cfg.Root, artifactPath(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // without the artifact there is nothing to compare with
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	idx, err := artifact.ReadIndex(f, m.Artifact)
	if err != nil {
		return nil, err
	}
	tree, err := u.dir.OpenRelease(id)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	return artifact.Drift(ctx, tree, idx, artifact.DriftOptions{Deep: deep, Limit: driftLimit})
}

// serve runs commands until ctx ends, and says when something changed.
func (u *unit) serve(ctx context.Context, cmds <-chan func(context.Context)) {
	drift := time.NewTicker(u.cfg.DriftEvery)
	defer drift.Stop()
	u.checkDrift(ctx, u.cfg.DeepDrift)
	u.publish(false)
	for {
		select {
		case <-ctx.Done():
			return
		case cmd := <-cmds:
			cmd(ctx)
			u.publish(false)
		case <-u.changed:
			u.publish(false)
		case <-drift.C:
			if u.checkDrift(ctx, false) {
				u.publish(false)
			}
		}
	}
}
