package seeder

import (
	"context"
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
	performing map[string]bool // keys in the outbox that were given to the hands, until confirmed
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
