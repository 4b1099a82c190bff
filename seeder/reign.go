package seeder

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/rollout"
)

// reign is one leadership. All its fields belong to the goroutine of run.
type reign struct {
	*loop
	lead  record.Leadership
	boxes map[string]*box // by "service/id"
	// over holds the last revisions of rollouts let go of: an older one in the view is no news.
	over map[string]int64
	// results are what goroutines of this reign bring back.
	results chan func()
	since   time.Time
	ctx     context.Context
	workers *workers
}

// box is one rollout in the loop's hands.
type box struct {
	*rolloutView // as stored
	// timer is when time alone may change something, zero when it cannot.
	timer time.Time
	// fresh says which reports are about this rollout. It holds the revisions known to this leader.
	fresh      freshness
	queue      []pending
	committing bool
	retry      time.Duration
	retryAt    time.Time
	performing map[string]bool // keys of effects given to the hands
	later      map[string]struct{}
	askingGate bool
}

// pending is an event on its way into a rollout.
type pending struct {
	at    time.Time
	event rollout.Event
	cmd   *command // who waits for it, nil when nobody
	act   auditedAct
}

// add queues an event that happened now.
func (b *box) add(make func(rollout.At) rollout.Event) { b.addFor(nil, auditedAct{}, make) }

// addFor queues the event of a command.
func (b *box) addFor(c *command, act auditedAct, make func(rollout.At) rollout.Event) {
	now := time.Now()
	b.queue = append(b.queue, pending{at: now, event: make(rollout.At(now)), cmd: c, act: act})
}

func newReign(l *loop, lead record.Leadership) *reign {
	return &reign{
		loop: l, lead: lead, boxes: map[string]*box{}, over: map[string]int64{}, results: make(chan func()), since: time.Now(),
		workers: &workers{},
	}
}

// run is the loop. It returns when ctx ends, after every goroutine it started.
func (r *reign) run(ctx context.Context) {
	r.ctx = ctx
	r.freeOrphans()
	dirty := r.roster.subscribe()
	defer r.roster.unsubscribe(dirty)
	scan := time.NewTicker(lostScan)
	defer scan.Stop()
	defer r.workers.wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		changed := r.view.changed.wait()
		r.look()
		timer.Reset(r.untilNext())
		select {
		case <-ctx.Done():
		case <-changed:
		case c := <-r.commands:
			c.do(r, c)
		case f := <-r.results:
			f()
		case <-dirty.wake:
			r.heard(dirty.take())
		case <-scan.C:
			r.heard(nil)
			r.askGates()
		case <-timer.C:
			r.tick()
		}
	}
}

// freeOrphans repairs what a leader may leave that dies while it begins the way back of an ended rollout.
func (r *reign) freeOrphans() {
	for _, svc := range r.view.serviceList() {
		v, ok := r.view.rollout(svc.rec.Name, svc.rec.Active)
		if ok && v.rec.State.Phase.Terminal() && len(v.rec.State.Outbox) == 0 {
			r.releaseSlot(v)
		}
	}
}

// look brings the boxes in line with the records: new rollouts, granted slots, the emergency stop.
func (r *reign) look() {
	for _, v := range r.view.activeRollouts() {
		if r.boxes[v.key()] == nil && v.rev > r.over[v.key()] {
			r.adopt(v)
		}
	}
	stop, _, _, _ := r.view.fleetState()
	for _, b := range r.boxes {
		s := &b.rec.State
		if svc, ok := r.view.service(s.Plan.Service); ok && svc.rec.Active == s.Plan.ID && !s.Slot && !b.has(isSlot) {
			r.refresh(b, &svc.rec)
			b.add(func(at rollout.At) rollout.Event { return rollout.SlotGranted{At: at} })
		}
		if stop.Stopped && !s.Phase.Terminal() && s.Cause != rollout.CauseStop && s.Phase != rollout.RollingBack && !b.has(isStop) {
			b.add(func(at rollout.At) rollout.Event {
				return rollout.Stopped{At: at, By: stop.By, Reason: stop.Reason}
			})
		}
		r.kick(b)
	}
}

// refresh brings a plan that waited in the queue up to date: what is stable, and what its hosts run, may have
// changed while it waited. Nobody was told anything of it yet. It is stored with the event that follows.
func (r *reign) refresh(b *box, svc *record.Service) {
	if b.rec.State.Plan.Stable == svc.Stable {
		return
	}
	b.rolloutView = newRolloutView(b.rec, b.rev, b.index)
	plan := &b.rec.State.Plan
	plan.Stable = svc.Stable
	plan.Hosts = slices.Clone(plan.Hosts)
	for i, h := range plan.Hosts {
		rep, _, _ := r.roster.report(h.ID, plan.Service)
		if active := rep.GetStatus().GetActive(); active != "" {
			plan.Hosts[i].Previous = active
		} else if svc.Stable != "" {
			plan.Hosts[i].Previous = svc.Stable
		}
	}
}

func isSlot(e rollout.Event) bool { _, ok := e.(rollout.SlotGranted); return ok }
func isStop(e rollout.Event) bool { _, ok := e.(rollout.Stopped); return ok }

// has reports whether such an event is on its way already.
func (b *box) has(is func(rollout.Event) bool) bool {
	return slices.ContainsFunc(b.queue, func(p pending) bool { return is(p.event) }) || b.committing
}

// adopt takes a stored rollout into the loop's hands: what an earlier leader left undone is performed, and every
// host's newest report is asked what it means.
func (r *reign) adopt(v *rolloutView) *box {
	b := &box{rolloutView: v, performing: map[string]bool{}}
	b.fresh = freshness{start: b.rec.StartRev, back: b.rec.BackRev, retry: retryOf(&b.rec)}
	r.boxes[b.key()] = b
	b.add(func(at rollout.At) rollout.Event { return rollout.Tick{At: at} })
	r.hear(b, nil)
	r.perform(b)
	return b
}

// find returns the box of a rollout, taking it from the view when it has ended but can still be rolled back.
func (r *reign) find(service, id string) *box {
	if b := r.boxes[service+"/"+id]; b != nil {
		return b
	}
	if v, ok := r.view.rollout(service, id); ok {
		return r.adopt(v)
	}
	return nil
}

// askGates asks again for every rollout whose widening the gate may stop or allow, as gates change by themselves.
func (r *reign) askGates() {
	for _, b := range r.boxes {
		s := &b.rec.State
		if s.Plan.Instant || !s.Slot || s.Phase.Terminal() || s.Phase == rollout.RollingBack || b.askingGate {
			continue
		}
		b.askingGate = true
		rec := b.rec
		r.workers.inLane(b.key()+"/gate", func() {
			answer := r.hands.askGate(r.ctx, &rec)
			r.bring(func() {
				b.askingGate = false
				b.add(func(rollout.At) rollout.Event { return answer })
				r.kick(b)
			})
		})
	}
}

// heard lets the reports of some hosts (all when nil) happen in every rollout.
func (r *reign) heard(hosts map[string]struct{}) {
	for _, b := range r.boxes {
		r.hear(b, hosts)
		r.kick(b)
	}
}

func (r *reign) hear(b *box, hosts map[string]struct{}) {
	if b.committing {
		// The state is about to change; committed asks again for all that was heard meanwhile.
		b.hearLater(hosts)
		return
	}
	if b.rec.State.Phase.Terminal() {
		return
	}
	now := time.Now()
	if hosts == nil {
		for id, i := range b.index {
			r.hearHost(b, id, i, now)
		}
		return
	}
	for id := range hosts {
		if i, in := b.index[id]; in {
			r.hearHost(b, id, i, now)
		}
	}
}

func (r *reign) hearHost(b *box, id string, i int, now time.Time) {
	rep, connected, lastSeen := r.roster.report(id, b.rec.State.Plan.Service)
	_, inFleet := r.view.host(id)
	// A leader that has just begun has no sessions yet: hosts are away since then at the earliest.
	if lastSeen.Before(r.since) {
		lastSeen = r.since
	}
	news := hostNews{report: rep, connected: connected, away: now.Sub(lastSeen), removed: !inFleet}
	for _, e := range eventsOf(now, &b.rec.State, i, b.targets()[id].Active, news, r.lostAfter, b.fresh) {
		b.queue = append(b.queue, pending{at: now, event: e})
	}
}

// tick lets time pass for the rollouts that wait for it.
func (r *reign) tick() {
	now := time.Now()
	for _, b := range r.boxes {
		if !b.timer.IsZero() && !b.timer.After(now) && !b.committing {
			b.timer = time.Time{}
			b.add(func(at rollout.At) rollout.Event { return rollout.Tick{At: at} })
		}
		r.kick(b)
	}
}

// untilNext is how long nothing can happen by time alone.
func (r *reign) untilNext() time.Duration {
	next := time.Hour
	for _, b := range r.boxes {
		switch {
		case b.committing:
		case len(b.queue) > 0:
			next = min(next, time.Until(b.retryAt))
		case !b.timer.IsZero():
			next = min(next, time.Until(b.timer))
		}
	}
	return max(next, 0)
}

// kick starts a commit when there is something to commit and none is under way.
func (r *reign) kick(b *box) {
	if b.committing || len(b.queue) == 0 || time.Now().Before(b.retryAt) {
		return
	}
	b.queue = slices.DeleteFunc(b.queue, func(p pending) bool { return p.cmd != nil && p.cmd.ctx.Err() != nil })
	took := b.queue
	b.queue = nil
	if len(took) == 0 {
		return
	}
	next, acts, refused := decide(b.rec.State, took)
	var kept []pending
	for i, p := range took {
		if err := refused[i]; err != nil {
			p.cmd.answer(b.rec, err)
			continue
		}
		kept = append(kept, p)
	}
	took = kept
	b.wind(&next, latest(took))
	if next.Version == b.rec.State.Version {
		for _, p := range took {
			if p.cmd != nil {
				p.cmd.answer(b.rec, nil)
			}
		}
		r.dropIfOver(b)
		return
	}
	r.commit(b, took, next, acts)
}

// latest is when the last of some events happened.
func latest(events []pending) time.Time {
	var at time.Time
	for _, p := range events {
		if p.at.After(at) {
			at = p.at
		}
	}
	return at
}

// wind sets the timer of a rollout after events up to now.
func (b *box) wind(s *rollout.State, now time.Time) {
	if at, ok := s.NextTimer(now); ok {
		b.timer = at
	} else {
		b.timer = time.Time{}
	}
}

// decide lets the events happen. Commands happen one by one, so that a refusal reaches who gave it; all else
// in runs. Refused maps places in took to why.
func decide(s rollout.State, took []pending) (next rollout.State, acts []auditedAct, refused map[int]error) {
	refused = map[int]error{}
	next = s
	var run []rollout.Event
	flush := func() {
		if len(run) > 0 {
			// What StepAll skips are reports about hosts or effects this rollout no longer has.
			next, _, _ = rollout.StepAll(next, run)
			run = nil
		}
	}
	for i, p := range took {
		if p.cmd == nil {
			run = append(run, p.event)
			continue
		}
		flush()
		after, _, err := rollout.Step(next, p.event)
		if err != nil {
			refused[i] = err
			continue
		}
		next = after
		acts = append(acts, p.act)
	}
	flush()
	return next, append(acts, ownActs(s, next)...), refused
}

// ownActs are what the loop itself decided and what must be on record: that a rollout ended, or turned back.
func ownActs(before, after rollout.State) []auditedAct {
	if before.Phase == after.Phase {
		return nil
	}
	object := "rollout/" + after.Plan.Service + "/" + after.Plan.ID
	switch {
	case after.Phase == rollout.RollingBack && after.Auto:
		return []auditedAct{{caller: itself, what: "rollout.rollback", object: object, why: after.Reason, after: string(after.Phase)}}
	case after.Phase.Terminal():
		return []auditedAct{{
			caller: itself, what: "rollout.end", object: object, why: after.Reason,
			before: string(before.Phase), after: string(after.Phase),
		}}
	}
	return nil
}

// commit stores the next state and performs its effects once it is stored.
func (r *reign) commit(b *box, took []pending, next rollout.State, acts []auditedAct) {
	b.committing = true
	r.boxes[b.key()] = b
	rec := b.rec
	rec.State, rec.Term = next, r.lead.Term()
	rec.StartRev, rec.BackRev = b.fresh.start, b.fresh.back
	if next.Phase.Terminal() && rec.FinishedAt.IsZero() {
		rec.FinishedAt = time.Now().UTC()
	}
	rev := b.rev
	r.workers.goDo(func() {
		stored, newRev, err := r.write(rec, rev, acts)
		r.bring(func() { r.committed(b, took, stored, newRev, err) })
	})
}

// bring hands a result to the loop; after the reign nobody wants it.
func (r *reign) bring(f func()) {
	select {
	case r.results <- f:
	case <-r.ctx.Done():
	}
}

// errStale says that the stored rollout is another than the one the commit was made from.
var errStale = errors.New("the stored rollout is another one")

// write commits one rollout record. When the answer to an earlier try was lost, the stored record is the wanted one
// already. Errors wrap errStale when it is any other; the record returned is then the stored one.
func (r *reign) write(rec record.Rollout, rev int64, acts []auditedAct) (record.Rollout, int64, error) {
	key := record.Key{Kind: record.KindRollout, ID: rec.State.Plan.Service + "/" + rec.State.Plan.ID}
	op, err := record.PutForm(key, rec, rev)
	if err != nil {
		return rec, 0, err
	}
	ctx, cancel := context.WithTimeout(r.ctx, storeTimeout)
	defer cancel()
	newRev, err := r.auditAll(ctx, acts, op)
	if !errors.Is(err, record.ErrConflict) {
		return rec, newRev, err
	}
	stored, storedRev, getErr := record.Get[record.Rollout](ctx, r.store, key)
	switch {
	case getErr != nil:
		return rec, 0, errors.Join(err, getErr)
	case stored.Term == rec.Term && stored.State.Version == rec.State.Version:
		return stored, storedRev, nil
	case storedRev != rev:
		return stored, storedRev, errStale
	}
	return rec, 0, err
}

// auditAll commits the op with the first act in one transaction, and puts any others on record right after.
func (r *reign) auditAll(ctx context.Context, acts []auditedAct, op record.Op) (int64, error) {
	if len(acts) == 0 {
		return r.lead.Commit(ctx, op)
	}
	rev, err := acts[0].put(ctx, r.audit, r.lead, op)
	if err != nil {
		return 0, err
	}
	for _, act := range acts[1:] {
		if _, err := act.put(ctx, r.audit, r.lead); err != nil {
			r.log.Error("an act could not be put on record", "act", act.what, "object", act.object, "err", err)
		}
	}
	return rev, nil
}

// committed takes the outcome of a commit in.
func (r *reign) committed(b *box, took []pending, rec record.Rollout, rev int64, err error) {
	b.committing = false
	if errors.Is(err, errStale) {
		b.rolloutView, b.queue = newRolloutView(rec, rev, b.index), append(took, b.queue...)
		r.kick(b)
		return
	}
	if err != nil {
		r.commitFailed(b, took, err)
		return
	}
	b.retry, b.retryAt = 0, time.Time{}
	before := b.rec.State.Phase
	b.rolloutView = newRolloutView(rec, rev, b.index)
	// The revisions are known only now; they are stored with the next commit.
	if b.fresh.start == 0 && begun(&rec.State) {
		b.fresh.start = rev
	}
	if before != rollout.RollingBack && rec.State.Phase == rollout.RollingBack {
		b.fresh.back = rev
	}
	if rec.State.Phase != before {
		r.log.Info("rollout", "rollout", rec.State.Plan.ID, "service", rec.State.Plan.Service,
			"phase", rec.State.Phase, "reason", rec.State.Reason)
	}
	r.view.own(b.rolloutView)
	for _, p := range took {
		if p.cmd != nil {
			p.cmd.answer(rec, nil)
		}
	}
	r.perform(b)
	later := b.later
	b.later = nil
	if later != nil {
		r.hear(b, later)
	}
	r.kick(b)
}

// commitFailed puts the events back and tries again later. Nothing was performed.
func (r *reign) commitFailed(b *box, took []pending, err error) {
	r.log.Warn("a rollout could not be stored; nothing of it is performed until it is",
		"rollout", b.rec.State.Plan.ID, "err", err)
	b.queue = append(took, b.queue...)
	b.retry = min(max(2*b.retry, retryFirst), retryLast)
	b.retryAt = time.Now().Add(b.retry)
}

// hearLater remembers hosts to ask about once the commit under way is over.
func (b *box) hearLater(hosts map[string]struct{}) {
	if b.later == nil {
		b.later = map[string]struct{}{}
	}
	for id := range hosts {
		b.later[id] = struct{}{}
	}
}

// dropIfOver lets go of a rollout that has ended and has nothing left to do.
func (r *reign) dropIfOver(b *box) {
	s := &b.rec.State
	if s.Phase.Terminal() && len(s.Outbox) == 0 && len(b.queue) == 0 && !b.committing {
		delete(r.boxes, b.key())
		r.over[b.key()] = b.rev
	}
}

// perform gives the effects that nobody works on yet to the hands, in order.
func (r *reign) perform(b *box) {
	var due []rollout.Effect
	for _, e := range b.rec.State.Outbox {
		if !b.performing[e.Key] {
			b.performing[e.Key] = true
			due = append(due, e)
		}
	}
	r.dropIfOver(b)
	if len(due) == 0 {
		return
	}
	rec := b.rec
	for _, lane := range lanes(due) {
		r.workers.inLane(b.key()+lane.name, func() {
			for _, e := range lane.effects {
				answer, done := r.hands.perform(r.ctx, r.lead, &rec, e)
				if !done {
					return
				}
				r.bring(func() { r.performed(b, e.Key, answer) })
			}
		})
	}
}

// performed confirms an effect, and brings in what it answered.
func (r *reign) performed(b *box, key string, answer rollout.Event) {
	if answer != nil {
		b.add(func(rollout.At) rollout.Event { return answer })
	}
	b.add(func(at rollout.At) rollout.Event { return rollout.EffectDone{At: at, Key: key} })
	delete(b.performing, key)
	r.kick(b)
}
