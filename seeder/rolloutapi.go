package seeder

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
	"github.com/murmuration/murmuration/rollout"
)

// rolloutAPI is the handler of RolloutService. Reads come from the view and the store, commands go through the
// loop; the emergency stop needs neither a leader nor a loop.
type rolloutAPI struct {
	murmurv1connect.UnimplementedRolloutServiceHandler

	store   record.Store
	view    *view
	roster  *roster
	planner *planner
	loop    *loop
	scripts *scriptShelf
	audit   auditor
	// rate says how fast the swarm of a torrent moves and what the first seed sent.
	swarm func(infohash string, p *murmurv1.SwarmProgress)
}

// watchPause is the least time between two messages of a watch.
const watchPause = 100 * time.Millisecond

// PlanRollout shows what StartRollout would do.
func (a *rolloutAPI) PlanRollout(ctx context.Context, req *connect.Request[murmurv1.PlanRolloutRequest]) (*connect.Response[murmurv1.PlanRolloutResponse], error) {
	m := req.Msg
	plan, warnings, err := a.planner.plan(wish{
		service: m.Service, release: m.Release, strategyJSON: m.StrategyJson, by: identity.CallerFrom(ctx).Name,
	})
	if err != nil {
		return nil, err
	}
	if d, reason, err := a.loop.hands.gate.Decide(ctx, m.Service); err != nil || d != rollout.GateOpen {
		warnings = append(warnings, "the gate is not open, so the rollout would wait: "+cmp.Or(reason, errorText(err), "it gave no reason"))
	}
	state, _, err := rollout.New(plan, time.Now())
	if err != nil {
		return nil, wire.Precondition("%w", err)
	}
	return connect.NewResponse(&murmurv1.PlanRolloutResponse{
		Rollout:  wire.Rollout(record.Rollout{State: state}, wire.Whole, a.view.hostName),
		Warnings: warnings, BlastRadius: blastRadius(&plan),
	}), nil
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// StartRollout begins a rollout or queues it.
func (a *rolloutAPI) StartRollout(ctx context.Context, req *connect.Request[murmurv1.StartRolloutRequest]) (*connect.Response[murmurv1.StartRolloutResponse], error) {
	m, caller := req.Msg, identity.CallerFrom(ctx)
	reason := wire.Text(m.Reason, wire.MaxText)
	plan, _, err := a.planner.plan(wish{
		service: m.Service, release: m.Release, strategyJSON: m.StrategyJson, by: caller.Name, reason: reason,
	})
	if err != nil {
		return nil, err
	}
	rec, err := a.begin(ctx, plan, m.RequestId, reason)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.StartRolloutResponse{Rollout: a.whole(rec)}), nil
}

// begin hands a plan to the loop.
func (a *rolloutAPI) begin(ctx context.Context, plan rollout.Plan, requestID, reason string) (record.Rollout, error) {
	if len(requestID) > 256 {
		return record.Rollout{}, wire.Invalid("the request id is over 256 bytes")
	}
	rel, ok := a.view.release(plan.Service, plan.Release)
	if !ok {
		return record.Rollout{}, wire.NotFound("service %q has no release %q", plan.Service, plan.Release)
	}
	act := a.act(ctx, "rollout.start", plan.Service, plan.ID, reason)
	act.after = map[string]any{"release": plan.Release, "stable": plan.Stable, "hosts": len(plan.Hosts), "instant": plan.Instant}
	rec, err := a.loop.start(ctx, plan, rel.manifest.Recipe.Selector, requestID, act)
	return rec, a.explain(err)
}

func (a *rolloutAPI) act(ctx context.Context, what, service, id, why string) auditedAct {
	return auditedAct{caller: identity.CallerFrom(ctx), what: what, object: "rollout/" + service + "/" + id, why: why}
}

// explain makes errors of the loop errors of the API.
func (a *rolloutAPI) explain(err error) error {
	_, leader, _, _ := a.view.fleetState()
	switch {
	case errors.Is(err, errNotLeader):
		return wire.Unavailable("%w; the leader is %s at %s, if it lives: try again in a moment", err, leader.Seeder, leader.Address)
	case errors.Is(err, rollout.ErrNotNow), errors.Is(err, rollout.ErrTerminal):
		return wire.Precondition("%w", err)
	}
	return err
}

// whole converts a rollout with everything known about it.
func (a *rolloutAPI) whole(rec record.Rollout) *murmurv1.Rollout {
	out := wire.Rollout(rec, wire.Whole, a.view.hostName)
	if plan := &rec.State.Plan; rec.State.Phase == rollout.Staging {
		ids := make([]string, len(plan.Hosts))
		for i, h := range plan.Hosts {
			ids[i] = h.ID
		}
		out.Swarm = a.roster.swarmProgress(ids, plan.Release)
		if rel, ok := a.view.release(plan.Service, plan.Release); ok {
			out.Swarm.BytesTotal = max(out.Swarm.BytesTotal, rel.manifest.Artifact.Size*int64(len(ids)))
			a.swarm(rel.rec.Infohash, out.Swarm)
		}
		pace(out.Swarm, time.Since(rec.State.Since))
	}
	return out
}

// pace adds the rate over the whole of staging, and what is left at that rate.
func pace(p *murmurv1.SwarmProgress, took time.Duration) {
	if took <= 0 || p.BytesDone <= 0 {
		return
	}
	p.BytesPerSecond = float64(p.BytesDone) / took.Seconds()
	left := float64(max(0, p.BytesTotal-p.BytesDone)) / p.BytesPerSecond
	p.Eta = durationpb.New(time.Duration(left * float64(time.Second)))
}

// GetRollout reads one rollout.
func (a *rolloutAPI) GetRollout(ctx context.Context, req *connect.Request[murmurv1.GetRolloutRequest]) (*connect.Response[murmurv1.GetRolloutResponse], error) {
	rec, err := a.find(ctx, req.Msg.Service, req.Msg.Id)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.GetRolloutResponse{Rollout: a.whole(rec)}), nil
}

// find reads a rollout by id or unique prefix; with no id, the service's latest.
func (a *rolloutAPI) find(ctx context.Context, service, id string) (record.Rollout, error) {
	var none record.Rollout
	if service == "" {
		var err error
		if service, err = a.serviceOf(ctx, id); err != nil {
			return none, err
		}
	}
	if v, ok := a.view.rollout(service, id); ok {
		return v.rec, nil
	}
	if err := (record.Key{Kind: record.KindRollout, ID: service + "/" + cmp.Or(id, "x")}).Valid(); err != nil {
		return none, wire.Invalid("%w", err)
	}
	items, err := a.store.Page(ctx, record.KindRollout, service+"/"+id, "", 2, true)
	switch {
	case err != nil:
		return none, err
	case len(items) == 0:
		return none, wire.NotFound("service %q has no rollout %q", service, id)
	case id != "" && len(items) > 1 && items[0].Key.ID != service+"/"+id:
		return none, wire.Invalid("%q fits more than one rollout of %s: say more of it", id, service)
	}
	return record.Decode[record.Rollout](items[0].Value)
}

// serviceOf finds the service of a whole rollout id.
func (a *rolloutAPI) serviceOf(ctx context.Context, id string) (string, error) {
	if id == "" {
		return "", wire.Invalid("which rollout? Say a service or an id")
	}
	for _, svc := range a.view.serviceList() {
		_, err := a.store.Get(ctx, record.Key{Kind: record.KindRollout, ID: svc.rec.Name + "/" + id})
		if err == nil {
			return svc.rec.Name, nil
		}
		if !errors.Is(err, record.ErrNotFound) {
			return "", err
		}
	}
	return "", wire.NotFound("there is no rollout %q; with a part of an id, name the service too", id)
}

// ListRollouts lists rollouts, newest first, without their hosts.
func (a *rolloutAPI) ListRollouts(ctx context.Context, req *connect.Request[murmurv1.ListRolloutsRequest]) (*connect.Response[murmurv1.ListRolloutsResponse], error) {
	limit := clampLimit(req.Msg.Limit, 20, 200)
	recs, err := a.list(ctx, req.Msg.Service, limit, req.Msg.ActiveOnly)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(recs, func(x, y record.Rollout) int {
		return strings.Compare(y.State.Plan.ID, x.State.Plan.ID)
	})
	out := &murmurv1.ListRolloutsResponse{}
	for _, rec := range recs[:min(len(recs), limit)] {
		out.Rollouts = append(out.Rollouts, wire.Rollout(rec, wire.Brief, nil))
	}
	return connect.NewResponse(out), nil
}

func clampLimit(asked int32, usual, most int) int {
	if asked <= 0 {
		return usual
	}
	return min(int(asked), most)
}

func (a *rolloutAPI) list(ctx context.Context, service string, limit int, activeOnly bool) ([]record.Rollout, error) {
	var out []record.Rollout
	if activeOnly {
		for _, v := range a.view.activeRollouts() {
			if service == "" || v.rec.State.Plan.Service == service {
				out = append(out, v.rec)
			}
		}
		return out, nil
	}
	services := []string{service}
	if service == "" {
		services = nil
		for _, svc := range a.view.serviceList() {
			services = append(services, svc.rec.Name)
		}
	}
	for _, name := range services {
		items, err := a.store.Page(ctx, record.KindRollout, name+"/", "", limit, true)
		if err != nil {
			return nil, err
		}
		entries, err := record.DecodeItems[record.Rollout](items)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			out = append(out, e.Form)
		}
	}
	return out, nil
}

// WatchRollout streams a rollout until it is over.
func (a *rolloutAPI) WatchRollout(ctx context.Context, req *connect.Request[murmurv1.WatchRolloutRequest], stream *connect.ServerStream[murmurv1.WatchRolloutResponse]) error {
	rec, err := a.find(ctx, req.Msg.Service, req.Msg.Id)
	if err != nil {
		return err
	}
	service, id := rec.State.Plan.Service, rec.State.Plan.ID
	for sent, first := uint64(0), true; ; first = false {
		changed := a.view.changed.wait()
		if v, ok := a.view.rollout(service, id); ok && v.rec.State.Version >= rec.State.Version {
			rec = v.rec
		} else if !first {
			if rec, err = a.find(ctx, service, id); err != nil {
				return err
			}
		}
		staging := rec.State.Phase == rollout.Staging
		if first || staging || rec.State.Version != sent {
			sent = rec.State.Version
			if err := stream.Send(&murmurv1.WatchRolloutResponse{Rollout: a.whole(rec)}); err != nil {
				return err
			}
		}
		if rec.State.Phase.Terminal() {
			return nil
		}
		if err := a.pause(ctx, changed, staging); err != nil {
			return err
		}
	}
}

// pause waits for a change, and at least watchPause. While staging, progress alone is worth a message a second.
func (a *rolloutAPI) pause(ctx context.Context, changed <-chan struct{}, staging bool) error {
	sleep(ctx, watchPause)
	var tick <-chan time.Time
	if staging {
		timer := time.NewTimer(time.Second)
		defer timer.Stop()
		tick = timer.C
	}
	select {
	case <-changed:
	case <-tick:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// GetScripts returns what check scripts printed on a host.
func (a *rolloutAPI) GetScripts(ctx context.Context, req *connect.Request[murmurv1.GetScriptsRequest]) (*connect.Response[murmurv1.GetScriptsResponse], error) {
	m := req.Msg
	if err := (record.Key{Kind: record.KindScripts, ID: m.Service + "/" + m.Host}).Valid(); err != nil {
		return nil, wire.Invalid("a service and a host are needed: %w", err)
	}
	out, err := a.scripts.get(ctx, m.Host, m.Service)
	if errors.Is(err, record.ErrNotFound) {
		return nil, wire.NotFound("no check script of %s has printed anything on host %s that is still kept", m.Service, m.Host)
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.GetScriptsResponse{ReleaseId: out.Release, Scripts: wire.Scripts(out)}), nil
}
