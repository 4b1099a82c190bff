package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/murmuration/murmuration/agent/install"
	"github.com/murmuration/murmuration/agent/runner"
	"github.com/murmuration/murmuration/release"
)

// ErrLocal is wrapped by every refusal of a local command.
var ErrLocal = errors.New("refused")

// Status is what `murmur-agent status` shows.
type Status struct {
	// Running says whether an agent runs on the folder; without one this is what the disk says.
	Running  bool            `json:"running"`
	Host     string          `json:"host,omitempty"`
	Version  string          `json:"version,omitempty"`
	Seeder   string          `json:"seeder,omitempty"` // attached to; "" while not
	Stopped  string          `json:"stopped,omitempty"`
	Drained  bool            `json:"drained,omitempty"`
	Term     uint64          `json:"term"`
	Revision int64           `json:"revision"`
	DiskFree int64           `json:"disk_free"`
	Services []ServiceStatus `json:"services"`
}

// ServiceStatus is one service in a [Status].
type ServiceStatus struct {
	Service  string    `json:"service"`
	Active   string    `json:"active,omitempty"`
	Previous string    `json:"previous,omitempty"`
	Wanted   string    `json:"wanted,omitempty"`
	State    string    `json:"state"`
	Detail   string    `json:"detail,omitempty"`
	PID      int       `json:"pid,omitempty"`
	Restarts int       `json:"restarts,omitempty"`
	OnDisk   []string  `json:"on_disk,omitempty"`
	Drifted  []string  `json:"drifted,omitempty"`
	Pin      string    `json:"pin,omitempty"`
	Since    time.Time `json:"since,omitzero"`
}

// status is the loop's.
func (l *loop) status() Status {
	s := Status{
		Running: true, Host: l.a.cfg.HostID, Version: l.a.cfg.Version, Seeder: l.a.Seeder(),
		Drained: l.desired.GetDrained(), Term: l.desired.GetOrder().GetTerm(), Revision: l.desired.GetOrder().GetRevision(),
		DiskFree: l.facts.GetDiskFree(),
	}
	if l.desired.GetStopped() {
		s.Stopped = "stopped: " + l.desired.GetStopReason()
	}
	for name, h := range l.units {
		st := describe(h.snap, h.busy)
		st.Wanted = target(l.desired, name).GetActive()
		for id, g := range l.stages {
			if g.service == name && g.err != nil {
				st.Detail = strings.TrimPrefix(fmt.Sprintf("%s; release %s is not staged: %v", st.Detail, id, g.err), "; ")
			}
		}
		s.Services = append(s.Services, st)
	}
	sortServices(s.Services)
	return s
}

func describe(s snapshot, busy bool) ServiceStatus {
	j := s.Journal
	state, detail := state(s, busy)
	return ServiceStatus{
		Service: s.Service, Active: j.Active, Previous: j.Previous, State: state, Detail: detail, PID: s.Run.PID,
		Restarts: s.Run.Restarts, OnDisk: s.Ready, Drifted: s.Drift, Pin: pinned(j), Since: j.Since,
	}
}

func sortServices(list []ServiceStatus) {
	slices.SortFunc(list, func(a, b ServiceStatus) int { return strings.Compare(a.Service, b.Service) })
}

// onDisk says what a service's folder says, with no agent to ask. It changes nothing.
func onDisk(root *os.Root, name string) (ServiceStatus, error) {
	own, err := root.OpenRoot(name)
	if err != nil {
		return ServiceStatus{}, fmt.Errorf("open service %s: %w", name, err)
	}
	defer own.Close()
	dir := install.View(own, name)
	j, err := dir.ReadJournal()
	if err != nil {
		return ServiceStatus{Service: name, State: StateFailed, Detail: err.Error()}, nil
	}
	s := snapshot{Service: name, Journal: j}
	if s.Ready, err = dir.List(); err != nil {
		return ServiceStatus{}, err
	}
	s.Run = runner.Found(own)
	return describe(s, false), nil
}

// goBackTo decides where a local rollback goes: to the release named, or to the one before.
func goBackTo(j install.Journal, to string, has func(string) bool) (string, error) {
	if to == "" {
		to = j.Previous
	}
	switch {
	case to == "":
		return "", fmt.Errorf("%w: no release ran before the present one; name one with --to", ErrLocal)
	case release.CheckID(to) != nil || !has(to):
		return "", fmt.Errorf("%w: release %q is not on this host's disk", ErrLocal, to)
	case to == j.Active:
		return "", fmt.Errorf("%w: release %s is the active one already", ErrLocal, to)
	}
	return to, nil
}

// pin records a local rollback before it is performed, so that a restart in between performs it.
func (u *unit) pin(from, to, reason string) error {
	before := u.journal.Pin
	u.journal.Pin = &install.Pin{From: from, To: to, Reason: reason, At: time.Now()}
	u.journal.Last = install.Attempt{}
	if err := u.dir.WriteJournal(u.journal); err != nil {
		u.journal.Pin = before
		return err
	}
	u.log.Warn("local rollback", "from", from, "to", to, "reason", reason)
	return nil
}

func (u *unit) unpin() {
	if u.journal.Pin == nil {
		return
	}
	u.log.Info("local rollback is over: the control plane is obeyed again", "from", u.journal.Pin.From, "to", u.journal.Pin.To)
	u.journal.Pin = nil
	u.store()
}

// rollback starts a local rollback; the loop's next steps perform it. What the pin holds against is what the
// control plane wants now, or else what runs.
func (l *loop) rollback(service, to, reason string, done chan<- error) {
	h := l.units[service]
	if h == nil {
		done <- fmt.Errorf("%w: no service %q on this host", ErrLocal, service)
		return
	}
	if h.busy {
		if h.abort != nil && h.running != nil {
			h.abort(fmt.Errorf("%w: a local rollback", errOvertaken))
		}
		time.AfterFunc(busyAgain, func() { l.a.do(l.ctx, func(l *loop) { l.rollback(service, to, reason, done) }) })
		return
	}
	to, err := goBackTo(h.snap.Journal, to, func(id string) bool { return h.ready[id] })
	if err != nil {
		done <- err
		return
	}
	from := h.snap.Journal.Active
	if wanted := target(l.desired, service).GetActive(); wanted != "" && wanted != to {
		from = wanted
	}
	l.command(h, func(ctx context.Context) {
		if err := h.unit.pin(from, to, reason); err != nil {
			done <- err
			return
		}
		h.unit.activate(ctx, ctx, request{Release: to, WayBack: true})
		done <- h.unit.verdict(to)
	})
}

// busyAgain is how soon a local rollback looks again whether the service is free.
const busyAgain = 50 * time.Millisecond

// verdict says whether the last activation brought the release up.
func (u *unit) verdict(id string) error {
	if u.journal.Active == id && u.journal.Last.Outcome == install.Healthy {
		return nil
	}
	return fmt.Errorf("release %s: %s", id, u.journal.Last.Error)
}

// unpin ends a local rollback's hold.
func (l *loop) unpin(service string, done chan<- error) {
	h := l.units[service]
	switch {
	case h == nil:
		done <- fmt.Errorf("%w: no service %q on this host", ErrLocal, service)
	case h.busy:
		done <- fmt.Errorf("%w: service %s is busy; try again", ErrLocal, service)
	default:
		l.command(h, func(context.Context) { h.unit.unpin(); done <- nil })
	}
}
