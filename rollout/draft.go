package rollout

import (
	"fmt"
	"slices"
	"time"
)

// maxTimeline bounds State.Timeline; maxText bounds every text that came from outside.
const (
	maxTimeline = 500
	maxText     = 500
)

// draft is a state on its way to the next one. It shares with the state it was made from whatever it does not
// change: hosts are copied before the first is written, and the slices that grow are capped so that appending
// copies them.
type draft struct {
	s     State
	now   time.Time
	fresh []Effect // of the versions committed
	// owned is set once Hosts is this draft's own copy.
	owned bool
	// changed is set when the state differs from the last committed version.
	changed bool
	// effects are those of the version being made; moved are the hosts whose target it changes.
	effects  []Effect
	moved    []int
	movedAll bool
	// index finds hosts by id; nil means to scan.
	index map[string]int
}

func newDraft(s State) *draft {
	s.Outbox = slices.Clip(s.Outbox)
	s.Timeline = slices.Clip(s.Timeline)
	return &draft{s: s}
}

// commit ends one version.
func (d *draft) commit() {
	if !d.changed {
		return
	}
	d.s.Version++
	d.flush()
	for n := range d.effects {
		d.effects[n].Key = d.key(n)
	}
	d.fresh = append(d.fresh, d.effects...)
	d.s.Outbox = append(d.s.Outbox, d.effects...)
	if len(d.s.Outbox) == 0 {
		d.s.Outbox = nil
	}
	d.effects, d.changed = nil, false
}

// host returns host i for writing.
func (d *draft) host(i int) *HostState {
	if !d.owned {
		d.s.Hosts = slices.Clone(d.s.Hosts)
		d.owned = true
	}
	d.changed = true
	return &d.s.Hosts[i]
}

// move puts host i in a phase, now.
func (d *draft) move(i int, to HostPhase, detail string) *HostState {
	h := d.host(i)
	h.Phase, h.Since, h.Detail = to, d.now, clip(detail)
	return h
}

// enter puts the rollout in a phase, now, and clears what it waited for.
func (d *draft) enter(p Phase, reason string) {
	d.s.Phase, d.s.Since, d.s.Reason = p, d.now, clip(reason)
	d.s.Resume, d.s.Cause = "", ""
	d.changed = true
	d.note(Entry{Kind: "phase", Text: string(p) + because(reason)})
}

// wait parks the rollout in Paused or Holding; what it was doing is where it resumes. People are told once,
// and not about a question that was only just asked.
func (d *draft) wait(p Phase, cause Cause, reason string) {
	resume := d.s.Phase
	if d.s.Resume != "" {
		resume = d.s.Resume
	}
	reason = clip(reason)
	said := d.s.Reason != asking
	switch {
	case d.s.Phase != p || d.s.Cause != cause:
		d.enter(p, reason)
		d.s.Resume, d.s.Cause = resume, cause
		said = false
	case d.s.Reason != reason:
		d.s.Reason, d.changed = reason, true
	}
	if !said && reason != asking {
		d.tell(fmt.Sprintf("%s: rollout of %s is %s: %s", d.s.Plan.Service, d.s.Plan.Release, p, reason))
	}
}

// hold waits for something that ends by itself.
func (d *draft) hold(cause Cause, reason string) { d.wait(Holding, cause, reason) }

// resume goes back to what a waiting rollout was doing. The time it waited does not count as lack of progress.
func (d *draft) resume(reason string) {
	if d.s.Resume == "" {
		return
	}
	d.enter(d.s.Resume, reason)
	d.s.Progress = d.now
}

// emit decides an effect; commit gives it its key.
func (d *draft) emit(e Effect) {
	d.effects = append(d.effects, e)
	d.changed = true
}

// tell informs people.
func (d *draft) tell(text string) { d.emit(Effect{Kind: Tell, Text: clip(text)}) }

// retarget pushes the target of host i when the version is committed.
func (d *draft) retarget(i int) {
	d.moved = append(d.moved, i)
	d.changed = true
}

// retargetAll pushes every host's.
func (d *draft) retargetAll() { d.movedAll, d.changed = true, true }

// flush turns the hosts to push into one effect ahead of this version's others: bytes and switches wait for
// nobody's chat message.
func (d *draft) flush() {
	if len(d.moved) == 0 && !d.movedAll {
		return
	}
	e := Effect{Kind: Retarget}
	slices.Sort(d.moved)
	d.moved = slices.Compact(d.moved)
	if !d.movedAll && len(d.moved) < len(d.s.Plan.Hosts) {
		for _, i := range d.moved {
			e.Hosts = append(e.Hosts, d.s.Plan.Hosts[i].ID)
		}
	}
	d.effects = slices.Insert(d.effects, 0, e)
	d.moved, d.movedAll = nil, false
}

// key names the n-th effect of the version being made.
func (d *draft) key(n int) string {
	kind, same := d.effects[n].Kind, 0
	for _, e := range d.effects[:n] {
		if e.Kind == kind {
			same++
		}
	}
	key := fmt.Sprintf("%s/%d/%s", d.s.Plan.ID, d.s.Version, kind)
	if same > 0 {
		key = fmt.Sprintf("%s/%d", key, same+1)
	}
	return key
}

// note appends to the timeline. When that is full, what hosts did goes before what the rollout did.
func (d *draft) note(e Entry) {
	e.At, e.Text = d.now, clip(e.Text)
	t := append(d.s.Timeline, e)
	if len(t) > maxTimeline {
		oldest := max(0, slices.IndexFunc(t, func(e Entry) bool { return e.Kind == "host" }))
		t = slices.Clip(slices.Delete(slices.Clone(t), oldest, oldest+1))
	}
	d.s.Timeline = t
	d.changed = true
}

// indexHosts makes finding many hosts cheap.
func (d *draft) indexHosts() {
	d.index = make(map[string]int, len(d.s.Plan.Hosts))
	for i, h := range d.s.Plan.Hosts {
		d.index[h.ID] = i
	}
}

// find returns the index of a host of the plan, or ErrUnknownHost.
func (d *draft) find(id string) (int, error) {
	i, ok := d.index[id]
	if d.index == nil {
		i = d.s.Plan.indexOf(id)
		ok = i >= 0
	}
	if !ok {
		return 0, fmt.Errorf("host %q: %w", clip(id), ErrUnknownHost)
	}
	return i, nil
}

// clip bounds a text that comes from outside, at a character's boundary.
func clip(text string) string {
	if len(text) <= maxText {
		return text
	}
	cut := maxText - len("…")
	for cut > 0 && text[cut]&0xC0 == 0x80 {
		cut--
	}
	return text[:cut] + "…"
}
