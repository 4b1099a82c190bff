package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/murmuration/murmuration/agent/install"
	"github.com/murmuration/murmuration/internal/wire"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

// The states a service can be in, as HostService.State says them.
const (
	StateEmpty      = "empty"      // no release was ever active
	StateActivating = "activating" // on the way from one release to another
	StateRunning    = "running"
	StateRestarting = "restarting" // crashed, and about to be started again
	StateFailed     = "failed"     // unhealthy, or in a crash loop
	StateStopped    = "stopped"    // drained
)

// say puts the whole truth about a service into the outbox.
func (l *loop) say(service string) {
	l.a.out.put("service/"+service, &murmurv1.AttachRequest{Report: &murmurv1.AttachRequest_Service{Service: l.serviceReport(service)}})
}

// refused answers an order that is not obeyed. Nothing of it is remembered.
func (l *loop) refused(t *murmurv1.ServiceTarget, order *murmurv1.Order, why string) {
	if l.units[t.GetService()] == nil {
		return
	}
	r := l.serviceReport(t.GetService())
	r.Attempted, r.Outcome, r.Error, r.Order = t.GetActive(), murmurv1.Outcome_OUTCOME_REFUSED, why, order
	l.a.out.put("service/"+t.GetService(), &murmurv1.AttachRequest{Report: &murmurv1.AttachRequest_Service{Service: r}})
}

func (l *loop) serviceReport(service string) *murmurv1.ServiceReport {
	h := l.units[service]
	s, t := h.snap, target(l.desired, service)
	j := s.Journal
	r := &murmurv1.ServiceReport{
		Status: hostService(s, h.busy), Attempted: j.Last.Release, Error: j.Last.Error, Outcome: outcome(j.Last.Outcome),
		Staged: l.stagedReleases(h, t), Order: l.desired.GetOrder(), Retry: j.Last.Retry,
	}
	if state := r.Status.State; state == StateFailed && j.Active != "" && (j.Last.Release == j.Active || j.Last.Release == "") {
		r.Attempted, r.Outcome, r.Error = j.Active, murmurv1.Outcome_OUTCOME_FAILED, r.Status.Detail
	}
	wants := t.GetActive()
	if l.desired.GetStopped() && wants != "" && wants != j.Active && !t.GetWayBack() && !h.busy {
		r.Attempted, r.Outcome, r.Error = wants, murmurv1.Outcome_OUTCOME_REFUSED, "emergency stop: "+l.desired.GetStopReason()
	}
	if j.Pin != nil && wants == j.Pin.From {
		r.Attempted, r.Outcome, r.Error = wants, murmurv1.Outcome_OUTCOME_REFUSED, pinned(j)
	}
	for _, sc := range j.Last.Scripts {
		r.Scripts = append(r.Scripts, &murmurv1.ScriptOutput{
			Phase: sc.Phase, Name: sc.Name, ExitCode: int32(sc.ExitCode), Output: sc.Output,
			Truncated: sc.Omitted > 0, Took: durationpb.New(sc.Took), Error: sc.Err,
		})
	}
	// Text that is not valid UTF-8, from a script or a path, would end the session. The service has a name, so
	// there is no error.
	_ = wire.Report(r)
	return r
}

func outcome(o install.Outcome) murmurv1.Outcome {
	switch o {
	case install.InProgress:
		return murmurv1.Outcome_OUTCOME_IN_PROGRESS
	case install.Healthy:
		return murmurv1.Outcome_OUTCOME_HEALTHY
	case install.Failed:
		return murmurv1.Outcome_OUTCOME_FAILED
	case install.Refused:
		return murmurv1.Outcome_OUTCOME_REFUSED
	}
	return murmurv1.Outcome_OUTCOME_UNSPECIFIED
}

// hostService is a snapshot as the API says it.
func hostService(s snapshot, busy bool) *murmurv1.HostService {
	j := s.Journal
	state, detail := state(s, busy)
	if p := pinned(j); p != "" {
		detail = strings.TrimPrefix(detail+"; "+p, "; ")
	}
	hs := &murmurv1.HostService{
		Service: s.Service, Active: j.Active, Previous: j.Previous, Staged: s.Ready, State: state, Detail: detail,
		Restarts: int32(s.Run.Restarts), Drift: len(s.Drift) > 0, Drifted: s.Drift,
	}
	if !j.Since.IsZero() {
		hs.Since = timestamppb.New(j.Since)
	}
	return hs
}

func state(s snapshot, busy bool) (state, detail string) {
	j := s.Journal
	switch {
	case s.Busy || busy && j.Last.Outcome == install.InProgress:
		return StateActivating, ""
	case j.Stopped:
		return StateStopped, "the host is drained"
	case s.Ill != nil:
		return StateFailed, s.Ill.Error()
	case j.Active == "":
		return StateEmpty, j.Last.Error
	case s.Run.Looping:
		return StateFailed, s.Run.Detail
	case j.Last.Outcome == install.Failed && j.Last.Release == j.Active:
		return StateFailed, j.Last.Error
	case !s.Run.Running:
		return StateRestarting, s.Run.Detail
	}
	return StateRunning, s.Run.Detail
}

// stagedReleases says of every release asked for how far it is, and of others that they are here.
func (l *loop) stagedReleases(h *handle, t *murmurv1.ServiceTarget) []*murmurv1.StagedRelease {
	var out []*murmurv1.StagedRelease
	for _, id := range h.snap.Ready {
		out = append(out, &murmurv1.StagedRelease{ReleaseId: id, Ready: true})
	}
	for _, ref := range t.GetStage() {
		if slices.Contains(h.snap.Ready, ref.GetId()) {
			continue
		}
		sr := &murmurv1.StagedRelease{ReleaseId: ref.GetId(), Ready: h.ready[ref.GetId()]}
		if s := l.stages[ref.GetId()]; s != nil && s.err != nil {
			sr.Error = s.err.Error()
		}
		out = append(out, sr)
	}
	return out
}

// hello opens a session: everything the agent knows, and an outbox without what hello says already.
func (a *Agent) hello(ctx context.Context) (*murmurv1.AttachRequest, error) {
	h := &murmurv1.Hello{
		HostId: a.cfg.HostID, Name: a.cfg.Name, AgentVersion: a.cfg.Version, SwarmAddress: a.cfg.SwarmAddress,
		Labels: a.cfg.Labels, BootId: a.boot,
	}
	err := a.ask(ctx, func(l *loop) {
		a.out.take()
		for name := range l.units {
			h.Services = append(h.Services, l.serviceReport(name))
		}
		h.Seen, h.Facts = l.desired.GetOrder(), l.facts
	})
	if err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	slices.SortFunc(h.Services, func(x, y *murmurv1.ServiceReport) int {
		return strings.Compare(x.GetStatus().GetService(), y.GetStatus().GetService())
	})
	return &murmurv1.AttachRequest{Report: &murmurv1.AttachRequest_Hello{Hello: h}}, nil
}
