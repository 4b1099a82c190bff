package seeder

import (
	"context"
	"strings"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

// serviceAPI is the handler of ServiceService.
type serviceAPI struct {
	murmurv1connect.UnimplementedServiceServiceHandler

	store record.Store
	view  *view
	audit auditor
}

// ListServices lists all services by name.
func (a *serviceAPI) ListServices(context.Context, *connect.Request[murmurv1.ListServicesRequest]) (*connect.Response[murmurv1.ListServicesResponse], error) {
	out := &murmurv1.ListServicesResponse{}
	for _, svc := range a.view.serviceList() {
		out.Services = append(out.Services, wire.Service(svc.rec, a.view.matching(svc)))
	}
	return connect.NewResponse(out), nil
}

// GetService reads one service.
func (a *serviceAPI) GetService(_ context.Context, req *connect.Request[murmurv1.GetServiceRequest]) (*connect.Response[murmurv1.GetServiceResponse], error) {
	svc, ok := a.view.service(req.Msg.Name)
	if !ok {
		return nil, wire.NotFound("there is no service %q", req.Msg.Name)
	}
	return connect.NewResponse(&murmurv1.GetServiceResponse{Service: wire.Service(svc.rec, a.view.matching(svc))}), nil
}

// LockService refuses further rollouts of a service.
func (a *serviceAPI) LockService(ctx context.Context, req *connect.Request[murmurv1.LockServiceRequest]) (*connect.Response[murmurv1.LockServiceResponse], error) {
	reason := strings.TrimSpace(wire.Text(req.Msg.Reason, wire.MaxText))
	if reason == "" {
		return nil, wire.Invalid("say why the service is locked")
	}
	lock := &record.Lock{By: identity.CallerFrom(ctx).Name, Reason: reason, Since: time.Now().UTC()}
	svc, err := a.setLock(ctx, req.Msg.Name, "service.lock", lock)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.LockServiceResponse{Service: svc}), nil
}

// UnlockService allows them again.
func (a *serviceAPI) UnlockService(ctx context.Context, req *connect.Request[murmurv1.UnlockServiceRequest]) (*connect.Response[murmurv1.UnlockServiceResponse], error) {
	svc, err := a.setLock(ctx, req.Msg.Name, "service.unlock", nil)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.UnlockServiceResponse{Service: svc}), nil
}

func (a *serviceAPI) setLock(ctx context.Context, name, what string, lock *record.Lock) (*murmurv1.Service, error) {
	key := record.Key{Kind: record.KindService, ID: name}
	if err := key.Valid(); err != nil {
		return nil, wire.Invalid("%w", err)
	}
	act := auditedAct{caller: identity.CallerFrom(ctx), what: what, object: "service/" + name}
	var svc record.Service
	_, err := record.Modify(ctx, auditedStore{a.store, a.audit, &act}, key, func(s *record.Service) error {
		if s.Lock == nil && lock == nil {
			svc = *s
			return record.ErrUnchanged
		}
		act.before, act.after = s.Lock, lock
		if lock != nil {
			act.why = lock.Reason
		}
		s.Lock, s.UpdatedAt = lock, time.Now().UTC()
		svc = *s
		return nil
	})
	if err != nil {
		return nil, err
	}
	hosts := 0
	if v, ok := a.view.service(name); ok {
		hosts = a.view.matching(v)
	}
	return wire.Service(svc, hosts), nil
}

// auditedStore is a store whose commits put an act on record. The act is read at the commit.
type auditedStore struct {
	record.Store
	audit auditor
	act   *auditedAct
}

// Commit commits with the act on record.
func (s auditedStore) Commit(ctx context.Context, ops ...record.Op) (int64, error) {
	return s.act.put(ctx, s.audit, s.Store, ops...)
}
