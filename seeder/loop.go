package seeder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/rollout"
)

// election is the name under which seeders elect who runs the rollouts.
const election = "rollouts"

// Pauses of the loop. Retries grow from the first to the last.
const (
	storeTimeout = 10 * time.Second
	retryFirst   = 100 * time.Millisecond
	retryLast    = 5 * time.Second
	// lostScan is how often hosts without a session are looked for.
	lostScan = time.Second
)

// loop is the rollout loop: elected, it owns every rollout that is not over. Everything that happens (reports,
// commands, changed records, time) becomes an event of one goroutine, the reign's, which alone touches the
// states. It never waits for anything outside: commits and effects run in goroutines of their own whose results
// come back as events.
//
// The order is that of the house: decide (rollout.Step), write down (a commit that succeeds only for the elected
// leader), act (effects), report. Nothing is performed, told to an agent or answered to a caller that is
// not stored.
type loop struct {
	log       *slog.Logger
	store     record.Store
	view      *view
	roster    *roster
	hands     *hands
	seeder    string
	address   string
	lostAfter time.Duration
	audit     auditor

	commands chan *command
	// leading is set while this process leads.
	reigning leaderFlag
}

// auditor commits ops together with an audit record of one act.
type auditor interface {
	CommitWith(ctx context.Context, to identity.Committer, what, object, why string, before, after any, ops ...record.Op) (int64, error)
}

// auditedAct is what goes on record.
type auditedAct struct {
	caller            identity.Caller
	what, object, why string
	before, after     any
}

// itself is who acts when the loop decides something without being asked.
var itself = identity.Caller{Name: "murmur"}

// put commits ops with the act on record, in one transaction.
func (act auditedAct) put(ctx context.Context, audit auditor, to identity.Committer, ops ...record.Op) (int64, error) {
	return audit.CommitWith(identity.WithCaller(ctx, act.caller), to, act.what, act.object, act.why, act.before, act.after, ops...)
}

// run campaigns and reigns until ctx ends.
func (l *loop) run(ctx context.Context) error {
	for wait := retryFirst; ctx.Err() == nil; {
		lead, err := l.store.Campaign(ctx, election, l.address)
		if err != nil {
			if ctx.Err() == nil {
				l.log.Warn("campaign failed", "err", err)
			}
			sleep(ctx, wait)
			wait = min(2*wait, retryLast)
			continue
		}
		wait = retryFirst
		l.reign(ctx, lead)
	}
	return nil
}

// reign leads until leadership or ctx ends.
func (l *loop) reign(ctx context.Context, lead record.Leadership) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-lead.Lost():
			cancel()
		case <-ctx.Done():
		}
	}()
	l.log.Info("leading", "term", lead.Term())
	if err := l.announce(ctx, lead); err != nil {
		l.log.Info("leadership ended before it began", "term", lead.Term(), "err", err)
	} else {
		r := newReign(l, lead)
		l.reigning.set(true)
		r.run(ctx)
		l.reigning.set(false)
	}
	resign, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer done()
	if err := lead.Resign(resign); err != nil {
		l.log.Debug("resigning failed; the lease will end by itself", "err", err)
	}
	l.log.Info("no longer leading", "term", lead.Term())
}

// announce writes the new term down and waits until this process's view has it: from then on the view holds
// everything that earlier leaders wrote, and agents refuse what they might still say.
func (l *loop) announce(ctx context.Context, lead record.Leadership) error {
	value, err := record.Encode(record.Leader{
		Term: lead.Term(), Seeder: l.seeder, Address: l.address, Since: time.Now().UTC(),
	})
	if err != nil {
		return err
	}
	for wait := retryFirst; ; wait = min(2*wait, retryLast) {
		_, err := lead.Commit(ctx, record.Put(record.LeaderKey, value, record.Any))
		if err == nil {
			break
		}
		if ctx.Err() != nil || errors.Is(err, record.ErrNotLeader) {
			return err
		}
		l.log.Warn("the new term could not be written", "term", lead.Term(), "err", err)
		sleep(ctx, wait)
	}
	for {
		changed := l.view.changed.wait()
		if _, leader, _, _ := l.view.fleetState(); leader.Term >= lead.Term() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// command is one act of a person or of the judge on its way to the loop.
type command struct {
	ctx context.Context
	// do runs in the reign's goroutine. It must not block; it answers through the reply.
	do    func(r *reign, c *command)
	reply chan answer
}

// answer is what came of a command.
type answer struct {
	rec record.Rollout
	err error
}

func (c *command) answer(rec record.Rollout, err error) {
	select {
	case c.reply <- answer{rec, err}:
	default:
	}
}

// errNotLeader is returned for a command to a loop that does not lead.
var errNotLeader = errors.New("this seeder does not lead the rollouts")

// ask runs a command in the loop and waits for its answer.
func (l *loop) ask(ctx context.Context, do func(r *reign, c *command)) (record.Rollout, error) {
	c := &command{ctx: ctx, do: do, reply: make(chan answer, 1)}
	ended := l.reigning.ended()
	if ended == nil {
		return record.Rollout{}, errNotLeader
	}
	select {
	case l.commands <- c:
	case <-ended:
		return record.Rollout{}, errNotLeader
	case <-ctx.Done():
		return record.Rollout{}, ctx.Err()
	}
	select {
	case a := <-c.reply:
		return a.rec, a.err
	case <-ended:
		return record.Rollout{}, fmt.Errorf("%w any more: look whether the command was taken, then repeat it", errNotLeader)
	case <-ctx.Done():
		return record.Rollout{}, ctx.Err()
	}
}

// steer hands an event to a rollout.
func (l *loop) steer(ctx context.Context, service, id string, act auditedAct, event func(rollout.At) rollout.Event) (record.Rollout, error) {
	return l.ask(ctx, func(r *reign, c *command) {
		b := r.find(service, id)
		if b == nil {
			c.answer(record.Rollout{}, fmt.Errorf("rollout %s of %s: %w", id, service, record.ErrNotFound))
			return
		}
		b.addFor(c, act, event)
		r.kick(b)
	})
}
