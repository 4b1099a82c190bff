package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/murmuration/murmuration/agent/install"
	"github.com/murmuration/murmuration/agent/script"
	"github.com/murmuration/murmuration/release"
)

// request asks a unit to make a release the active one.
type request struct {
	Release string
	Retry   uint64
	// WayBack goes back to an earlier release: checks and drain of the recipe cannot refuse it, and when it
	// does not become healthy there is no going back from going back.
	WayBack bool
}

// The causes with which an activation is called off: see overtaken.
var (
	errStopped   = errors.New("emergency stop: no activation is started")
	errOvertaken = errors.New("overtaken")
)

// activate makes a release the active one: pre checks, drain, switch, start, health, post checks. Until the
// switch the end of abort calls it off; from there on it goes through, forward or back, and an abort that says the
// release is not wanted any more makes it go back at once. The end of ctx (the agent ends) leaves the journal for the
// next start to go on with.
func (u *unit) activate(ctx, abort context.Context, req request) {
	u.journal.Last = install.Attempt{Release: req.Release, Retry: req.Retry, Outcome: install.InProgress}
	u.publish(true)
	next, err := u.load(req.Release)
	if err == nil && !req.WayBack {
		err = u.before(abort, next)
	}
	if err == nil {
		err = context.Cause(abort)
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		u.refuse(err, abort.Err() != nil)
		return
	}
	if req.WayBack {
		u.runScripts(abort, next, "drain", next.manifest.Recipe.Checks.Drain) // recorded, never in the way
	}
	u.journal.Phase, u.journal.Target, u.journal.WayBack = install.Switching, req.Release, req.WayBack
	if err := u.dir.WriteJournal(u.journal); err != nil {
		u.journal.Phase, u.journal.Target, u.journal.WayBack = install.Settled, "", false
		u.refuse(err, true)
		return
	}
	if err := u.swap(req); err != nil {
		u.undo(ctx, next, err)
		return
	}
	u.finish(ctx, abort, next, false)
}

// before runs what comes before anything changes.
func (u *unit) before(abort context.Context, next live) error {
	if err := u.runScripts(abort, next, "pre", next.manifest.Recipe.Checks.Pre); err != nil {
		return err
	}
	return u.runScripts(abort, next, "drain", next.manifest.Recipe.Checks.Drain)
}

// refuse records that the release was not activated and that nothing changed.
func (u *unit) refuse(err error, refused bool) {
	u.journal.Last.Outcome, u.journal.Last.Error = install.Failed, err.Error()
	if refused {
		u.journal.Last.Outcome = install.Refused
	}
	u.log.Warn("release not activated", "release", u.journal.Last.Release, "err", err)
	u.store()
}

// swap moves the links. The journal says already where they go.
func (u *unit) swap(req request) error {
	previous := u.journal.Active
	if previous == req.Release {
		previous = u.journal.Previous
	}
	return u.dir.SetLinks(req.Release, previous)
}

// finish starts the release the links name, unless it was found running, and settles on it or goes back.
func (u *unit) finish(ctx, abort context.Context, next live, running bool) {
	u.unwatch()
	wanted, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(abort, func() {
		if cause := context.Cause(abort); errors.Is(cause, errOvertaken) {
			cancel(cause)
		}
	})()
	err := error(nil)
	if !running {
		u.step("before start")
		err = u.start(ctx, next)
		u.step("after start")
	}
	if err == nil {
		err = u.awaitHealth(wanted, next)
		u.step("after health")
	}
	if err == nil {
		err = u.runScripts(wanted, next, "post", next.manifest.Recipe.Checks.Post)
		u.step("after post")
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		if cause := context.Cause(wanted); cause != nil {
			err = cause // says more than what it interrupted
		}
		u.undo(ctx, next, err)
	default:
		u.settle(next, install.Healthy, "")
	}
}

// settle ends an activation on the release it was for.
func (u *unit) settle(next live, outcome install.Outcome, why string) {
	j := &u.journal
	if j.Active != next.spec.Release {
		j.Previous, j.Active, j.Since = j.Active, next.spec.Release, time.Now()
	}
	j.Phase, j.Target, j.WayBack, j.Stopped = install.Settled, "", false, false
	j.Last.Outcome, j.Last.Error = outcome, why
	u.store()
	u.drift = nil
	u.watchHealth(next)
	u.log.Info("release settled", "release", j.Active, "outcome", outcome, "why", why)
}

// undo goes back to the release before, after the one it was left for failed.
func (u *unit) undo(ctx context.Context, failed live, cause error) {
	j := &u.journal
	u.log.Warn("release failed", "release", failed.spec.Release, "going_back_to", j.Active, "err", cause)
	if j.WayBack || j.Active == failed.spec.Release {
		u.settle(failed, install.Failed, cause.Error())
		return
	}
	j.Phase, j.Last.Error = install.Reverting, cause.Error()
	u.store()
	u.goBack(ctx, cause)
}

// goBack makes the links and the host be of the active release again; Reverting is in the journal.
func (u *unit) goBack(ctx context.Context, cause error) {
	j := &u.journal
	if err := u.dir.SetLinks(j.Active, j.Previous); err != nil {
		cause = errors.Join(cause, fmt.Errorf("going back: %w", err))
	}
	u.unwatch()
	var old live
	err := error(nil)
	if j.Active == "" {
		err = u.stop(ctx)
	} else if old, err = u.load(j.Active); err == nil {
		u.step("before start old")
		// A release that died at once never made the old one stop.
		if s := u.runner(u.kind).Status(); !s.Running || s.Release != j.Active {
			err = u.start(ctx, old)
		}
		if err == nil {
			err = u.awaitHealth(ctx, old)
		}
		u.step("after start old")
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		cause = fmt.Errorf("%w; and going back to %q: %w", cause, j.Active, err)
	}
	j.Phase, j.Target = install.Settled, ""
	j.Last.Outcome, j.Last.Error = install.Failed, cause.Error()
	if errors.Is(cause, errOvertaken) && err == nil {
		// The release was not found wanting, it was not wanted: nothing is held against it.
		j.Last = install.Attempt{Release: j.Active, Outcome: install.Healthy, Scripts: j.Last.Scripts}
	}
	u.store()
	if j.Active != "" && old.spec.Release != "" {
		u.watchHealth(old)
		if err != nil {
			u.setIllness(err)
		}
	}
}

// store writes the journal where a failure can only be reported: what it says is true in memory.
func (u *unit) store() {
	if err := u.dir.WriteJournal(u.journal); err != nil {
		u.log.Error("the journal cannot be written", "err", err)
	}
}

func (u *unit) step(point string) {
	if u.cfg.step != nil {
		u.cfg.step(point)
	}
}

// runScripts runs scripts of the release in order and stops at the first that fails.
func (u *unit) runScripts(ctx context.Context, l live, phase string, scripts []release.Script) error {
	for i, s := range scripts {
		name := s.Name
		if name == "" {
			name = fmt.Sprintf("%s %d", phase, i+1)
		}
		r := script.Run(ctx, script.Cmd{
			Phase: phase, Name: name, Run: s.Run, Timeout: s.Timeout.Std(),
			Dir: l.spec.Dir, Env: u.environ(l.spec.Release, phase),
		})
		u.journal.Last.Scripts = append(u.journal.Last.Scripts, r)
		if !r.OK() {
			return fmt.Errorf("%s check %q: %s", phase, name, r.Err)
		}
	}
	return nil
}

// recover makes the folder whole after a restart of the agent, whatever line it died at, and makes what shall
// run run: adopted if it still does, started otherwise.
func (u *unit) recover(ctx context.Context) error {
	j, err := u.dir.ReadJournal()
	if err != nil {
		if !errors.Is(err, install.ErrDamaged) {
			return err
		}
		u.log.Error("believing the links", "err", err)
	}
	r := install.Recover(j, u.dir.Facts())
	if r.Reason != "" {
		u.log.Warn("recovering", "action", r.Action, "release", r.Current, "reason", r.Reason)
	}
	u.journal = j
	if r.Action != install.Resume {
		u.journal.Active, u.journal.Previous = r.Current, r.Previous
	}
	if u.journal.Last.Outcome == install.InProgress && r.Action == install.Keep {
		u.journal.Last = install.Attempt{}
	}
	switch r.Action {
	case install.Resume:
		if err := u.dir.SetLinks(r.Current, r.Previous); err != nil {
			return err
		}
		return u.resume(ctx, r.Target)
	case install.GoBack:
		u.goBack(ctx, errors.New(j.Last.Error))
		return nil
	}
	return u.keep(ctx, r)
}

func (u *unit) resume(ctx context.Context, id string) error {
	next, err := u.load(id)
	if err != nil {
		return err
	}
	running := false
	if next.spec.Run.Kind == release.RunProcess {
		if running, err = u.adopt(ctx, next); err != nil {
			return err
		}
	}
	u.journal.Last = install.Attempt{Release: id, Retry: u.journal.Last.Retry, Outcome: install.InProgress}
	u.finish(ctx, ctx, next, running)
	return nil
}

// keep settles on a release and makes it run, without waiting for its health.
func (u *unit) keep(ctx context.Context, r install.Recovery) error {
	if err := u.dir.SetLinks(r.Current, r.Previous); err != nil {
		return err
	}
	if u.journal.Phase != install.Settled {
		u.journal.Phase, u.journal.Target, u.journal.WayBack = install.Settled, "", false
		if err := u.dir.WriteJournal(u.journal); err != nil {
			return err
		}
	}
	if r.Current == "" {
		return u.sweep(ctx)
	}
	cur, err := u.load(r.Current)
	if err != nil {
		return err
	}
	running, err := u.adopt(ctx, cur)
	if err != nil {
		return err
	}
	if u.journal.Stopped {
		return u.stop(ctx)
	}
	if !running {
		if err := u.start(ctx, cur); err != nil {
			u.setIllness(err)
			return nil
		}
	}
	u.watchHealth(cur)
	return nil
}

func (u *unit) adopt(ctx context.Context, l live) (bool, error) {
	u.kind = l.spec.Run.Kind
	return u.runner(u.kind).Adopt(ctx, l.spec)
}

// sweep ends what a first installation that never finished may have left running.
func (u *unit) sweep(ctx context.Context) error {
	u.kind = release.RunProcess
	nobody := live{}
	nobody.spec.Service, nobody.spec.Env = u.name, u.environ("", "run")
	_, err := u.runner(u.kind).Adopt(ctx, nobody.spec)
	return err
}

// halt stops the service and keeps it stopped; resume of it is unhalt's.
func (u *unit) halt(ctx context.Context) {
	u.journal.Stopped = true
	u.store()
	if err := u.stop(ctx); err != nil {
		u.log.Error("stop the service", "err", err)
	}
}

// unhalt starts the active release again.
func (u *unit) unhalt(ctx context.Context) {
	u.journal.Stopped = false
	u.store()
	cur, err := u.load(u.journal.Active)
	if err == nil {
		err = u.start(ctx, cur)
	}
	if err != nil {
		u.setIllness(fmt.Errorf("start after drain: %w", err))
		return
	}
	u.watchHealth(cur)
}
