package seeder

import (
	"context"
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
	"github.com/murmuration/murmuration/rollout"
)

// SteerRollout pauses, resumes, promotes, aborts or rolls back.
func (a *rolloutAPI) SteerRollout(ctx context.Context, req *connect.Request[murmurv1.SteerRolloutRequest]) (*connect.Response[murmurv1.SteerRolloutResponse], error) {
	m, by := req.Msg, identity.CallerFrom(ctx).Name
	found, err := a.find(ctx, m.Service, m.Id)
	if err != nil {
		return nil, err
	}
	service, id, reason := found.State.Plan.Service, found.State.Plan.ID, wire.Text(m.Reason, wire.MaxText)
	if m.Steer == murmurv1.Steer_STEER_ROLLBACK {
		rec, err := a.loop.rollBack(ctx, service, id, a.act(ctx, "rollout.rollback", service, id, reason), by, reason)
		if err != nil {
			return nil, a.explain(err)
		}
		return connect.NewResponse(&murmurv1.SteerRolloutResponse{Rollout: a.whole(rec)}), nil
	}
	what, event, err := a.steering(m.Steer, by, reason, m.All)
	if err != nil {
		return nil, err
	}
	rec, err := a.loop.steer(ctx, service, id, a.act(ctx, what, service, id, reason), event)
	if err != nil {
		return nil, a.explain(err)
	}
	return connect.NewResponse(&murmurv1.SteerRolloutResponse{Rollout: a.whole(rec)}), nil
}

// steering maps a word of the API to its event and its name on record.
func (a *rolloutAPI) steering(word murmurv1.Steer, by, reason string, all bool) (what string, event func(rollout.At) rollout.Event, err error) {
	switch word {
	case murmurv1.Steer_STEER_PAUSE:
		return "rollout.pause", func(at rollout.At) rollout.Event {
			return rollout.PauseAsked{At: at, By: by, Reason: reason}
		}, nil
	case murmurv1.Steer_STEER_RESUME:
		if stop, _, _, _ := a.view.fleetState(); stop.Stopped {
			return "", nil, wire.Precondition("the fleet is stopped by %s: %s; lift the stop first", stop.By, stop.Reason)
		}
		return "rollout.resume", func(at rollout.At) rollout.Event { return rollout.ResumeAsked{At: at, By: by} }, nil
	case murmurv1.Steer_STEER_PROMOTE:
		return "rollout.promote", func(at rollout.At) rollout.Event {
			return rollout.PromoteAsked{At: at, By: by, All: all}
		}, nil
	case murmurv1.Steer_STEER_ABORT:
		return "rollout.abort", func(at rollout.At) rollout.Event {
			return rollout.AbortAsked{At: at, By: by, Reason: reason}
		}, nil
	}
	return "", nil, wire.Invalid("steer how? Say pause, resume, promote, abort or rollback")
}

// RollbackService takes a service back.
func (a *rolloutAPI) RollbackService(ctx context.Context, req *connect.Request[murmurv1.RollbackServiceRequest]) (*connect.Response[murmurv1.RollbackServiceResponse], error) {
	m := req.Msg
	svc, ok := a.view.service(m.Service)
	if !ok {
		return nil, wire.NotFound("there is no service %q", m.Service)
	}
	reason := wire.Text(m.Reason, wire.MaxText)
	if id := a.rollsBack(svc, m.To); id != "" {
		return a.rollBackTo(ctx, svc.rec.Name, id, reason, m.DryRun)
	}
	return a.wayBack(ctx, svc, m.To, reason, m.DryRun)
}

// rollsBack names the rollout that is itself the thing to take back: the active one, or the complete one that
// made the present release stable. "" means that a plan of its own is needed.
func (a *rolloutAPI) rollsBack(svc *serviceView, to string) string {
	if svc.rec.Active != "" {
		return svc.rec.Active
	}
	last, ok := a.view.rollout(svc.rec.Name, svc.rec.Last)
	if to == "" && ok && last.rec.State.Phase == rollout.Complete &&
		last.rec.State.Plan.Release == svc.rec.Stable && last.rec.State.Plan.Stable != "" {
		return svc.rec.Last
	}
	return ""
}

func (a *rolloutAPI) rollBackTo(ctx context.Context, service, id, reason string, dryRun bool) (*connect.Response[murmurv1.RollbackServiceResponse], error) {
	if dryRun {
		rec, err := a.find(ctx, service, id)
		if err != nil {
			return nil, err
		}
		next, _, err := rollout.Step(rec.State, rollout.RollbackAsked{
			At: rollout.At(time.Now()), By: identity.CallerFrom(ctx).Name, Reason: reason,
		})
		if err != nil {
			return nil, a.explain(err)
		}
		rec.State = next
		return connect.NewResponse(&murmurv1.RollbackServiceResponse{Rollout: a.whole(rec)}), nil
	}
	act := a.act(ctx, "service.rollback", service, id, reason)
	rec, err := a.loop.rollBack(ctx, service, id, act, act.caller.Name, reason)
	if err != nil {
		return nil, a.explain(err)
	}
	return connect.NewResponse(&murmurv1.RollbackServiceResponse{Rollout: a.whole(rec)}), nil
}

// wayBack plans and begins an instant rollout to a release that was stable once.
func (a *rolloutAPI) wayBack(ctx context.Context, svc *serviceView, to, reason string, dryRun bool) (*connect.Response[murmurv1.RollbackServiceResponse], error) {
	if to == "" {
		to = svc.rec.Previous
	}
	if to == "" {
		return nil, wire.Precondition("service %s has no earlier stable release to go back to", svc.rec.Name)
	}
	rel, err := a.view.resolve(svc.rec.Name, to)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(svc.rec.History, rel.manifest.ID) {
		return nil, wire.Precondition("release %s was never stable: start a rollout of it instead", rel.manifest.ID)
	}
	plan, _, err := a.planner.plan(wish{
		service: svc.rec.Name, release: rel.manifest.ID, by: identity.CallerFrom(ctx).Name, reason: reason, instant: true,
	})
	if err != nil {
		return nil, err
	}
	var rec record.Rollout
	if dryRun {
		rec.State, _, err = rollout.New(plan, time.Now())
	} else {
		rec, err = a.begin(ctx, plan, "", reason)
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.RollbackServiceResponse{Rollout: a.whole(rec)}), nil
}

// Stop stops the fleet: it is stored before it is answered, and every seeder pushes it to its agents as soon
// as its watch brings it. No leader is needed.
func (a *rolloutAPI) Stop(ctx context.Context, req *connect.Request[murmurv1.StopRequest]) (*connect.Response[murmurv1.StopResponse], error) {
	stop, err := a.setStop(ctx, "fleet.stop", wire.Text(req.Msg.Reason, wire.MaxText), true)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.StopResponse{Stop: wire.Stop(stop)}), nil
}

// LiftStop ends it. Rollouts stay paused until somebody resumes them.
func (a *rolloutAPI) LiftStop(ctx context.Context, req *connect.Request[murmurv1.LiftStopRequest]) (*connect.Response[murmurv1.LiftStopResponse], error) {
	stop, err := a.setStop(ctx, "fleet.lift-stop", wire.Text(req.Msg.Reason, wire.MaxText), false)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.LiftStopResponse{Stop: wire.Stop(stop)}), nil
}

func (a *rolloutAPI) setStop(ctx context.Context, what, reason string, stopped bool) (record.Stop, error) {
	caller := identity.CallerFrom(ctx)
	for {
		before, rev, err := record.Get[record.Stop](ctx, a.store, record.StopKey)
		if err != nil && !errors.Is(err, record.ErrNotFound) {
			return before, err
		}
		if before.Stopped == stopped {
			return before, nil
		}
		after := record.Stop{Stopped: stopped, By: caller.Name, Reason: reason, Since: time.Now().UTC()}
		op, err := record.PutForm(record.StopKey, after, rev)
		if err != nil {
			return before, err
		}
		act := auditedAct{caller: caller, what: what, object: "fleet/stop", why: reason, before: before, after: after}
		if _, err = act.put(ctx, a.audit, a.store, op); !errors.Is(err, record.ErrConflict) {
			return after, err
		}
	}
}

// GetStop says whether the fleet is stopped.
func (a *rolloutAPI) GetStop(context.Context, *connect.Request[murmurv1.GetStopRequest]) (*connect.Response[murmurv1.GetStopResponse], error) {
	stop, _, _, _ := a.view.fleetState()
	return connect.NewResponse(&murmurv1.GetStopResponse{Stop: wire.Stop(stop)}), nil
}
