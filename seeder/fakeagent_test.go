package seeder

import (
	"context"
	"crypto/tls"
	"slices"
	"sync"
	"testing"
	"time"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"
)

// fakeAgent speaks real sessions and has no disk: what it is told to stage is staged, what it is told to run
// runs, unless told otherwise. It refuses old orders, as an agent must, and survives the end of its sessions.
type fakeAgent struct {
	tb   testing.TB
	host string
	cert *tls.Certificate

	mu      sync.Mutex
	active  string
	staged  map[string]bool
	seen    *murmurv1.Order
	history []string // releases it was told to run, without repeats
	ran     []string // releases it switched to
	bad     map[string]bool
	held    map[string]bool // releases whose activation stays in progress
	attempt string
	outcome murmurv1.Outcome
	errText string
	stopped bool
	peers   []*murmurv1.Peer
	rejoin  string
	refused int    // orders older than the newest obeyed
	retry   uint64 // of the attempt
	send    func(*murmurv1.AttachRequest) error
}

// agent makes a host of the fleet with an agent that runs a release ("" for none).
func (w *world) agent(id, rack, active string) *fakeAgent {
	w.tb.Helper()
	w.host(id, rack)
	a := &fakeAgent{
		tb: w.tb, host: id, cert: w.certificate(id), active: active, staged: map[string]bool{}, bad: map[string]bool{}, held: map[string]bool{},
	}
	w.agents[id] = a
	return a
}

// attach opens a session to a seeder; it lasts until the returned function is called or the seeder ends it.
func (w *world) attach(s *running, a *fakeAgent) (detach func()) {
	w.tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	client := murmurv1connect.NewSessionServiceClient(w.client(a.cert), "https://"+s.Addr())
	done := make(chan struct{})
	first := make(chan struct{})
	go func() {
		defer close(done)
		a.session(ctx, client, first)
	}()
	stop := func() { cancel(); <-done }
	w.tb.Cleanup(stop)
	select {
	case <-first:
	case <-done:
	case <-time.After(patience):
		w.tb.Fatalf("agent %s got no first directive", a.host)
	}
	return stop
}

// session is one session, from hello to its end.
func (a *fakeAgent) session(ctx context.Context, client murmurv1connect.SessionServiceClient, first chan struct{}) {
	stream := client.Attach(ctx)
	// A cancelled context alone does not end a stream whose request body is still open.
	stop := context.AfterFunc(ctx, func() { _ = stream.CloseRequest() })
	defer stop()
	defer stream.CloseResponse()
	defer stream.CloseRequest()
	a.mu.Lock()
	hello := &murmurv1.Hello{
		HostId: a.host, Name: a.host, AgentVersion: "test", SwarmAddress: "127.0.0.1:1", Seen: a.seen,
		Services: []*murmurv1.ServiceReport{a.reportLocked()},
	}
	err := stream.Send(&murmurv1.AttachRequest{Report: &murmurv1.AttachRequest_Hello{Hello: hello}})
	a.send = stream.Send
	a.mu.Unlock()
	for got := false; err == nil; {
		var msg *murmurv1.AttachResponse
		if msg, err = stream.Receive(); err != nil {
			break
		}
		a.mu.Lock()
		if obeyed := a.obeyLocked(msg); obeyed && !got {
			got = true
			close(first)
		}
		a.mu.Unlock()
	}
	a.mu.Lock()
	a.send = nil
	a.mu.Unlock()
}

// obeyLocked does what a directive says; it reports whether that was a Desired or the end.
func (a *fakeAgent) obeyLocked(msg *murmurv1.AttachResponse) bool {
	switch d := msg.Directive.(type) {
	case *murmurv1.AttachResponse_Peers:
		a.peers = d.Peers.Peers
		return false
	case *murmurv1.AttachResponse_Rejoin:
		a.rejoin = d.Rejoin.Reason
		return true
	case *murmurv1.AttachResponse_Desired:
		if olderOrder(d.Desired.Order, a.seen) {
			a.refused++
			return true
		}
		a.seen, a.stopped = d.Desired.Order, d.Desired.Stopped
		for _, t := range d.Desired.Services {
			a.becomeLocked(t)
		}
		return true
	}
	return false
}

func (a *fakeAgent) becomeLocked(t *murmurv1.ServiceTarget) {
	for _, ref := range t.Stage {
		a.staged[ref.Id] = true
	}
	if t.Active == "" {
		a.sayLocked()
		return
	}
	if len(a.history) == 0 || a.history[len(a.history)-1] != t.Active {
		a.history = append(a.history, t.Active)
	}
	failedBefore := a.attempt == t.Active && a.outcome == murmurv1.Outcome_OUTCOME_FAILED && a.retry == t.Retry
	switch {
	case a.active == t.Active, failedBefore, a.stopped && !t.WayBack:
	case a.held[t.Active]:
		a.attempt, a.outcome, a.retry = t.Active, murmurv1.Outcome_OUTCOME_IN_PROGRESS, t.Retry
	case a.bad[t.Active]:
		a.sayLocked() // answers the order before the attempt, as agents do
		a.attempt, a.outcome, a.retry, a.errText = t.Active, murmurv1.Outcome_OUTCOME_FAILED, t.Retry, "health check failed"
	default:
		a.sayLocked()
		a.active = t.Active
		a.attempt, a.outcome, a.retry, a.errText = t.Active, murmurv1.Outcome_OUTCOME_HEALTHY, t.Retry, ""
		a.ran = append(a.ran, t.Active)
	}
	a.sayLocked()
}

// sayLocked reports, if attached; a report that gets lost is said again in the next hello.
func (a *fakeAgent) sayLocked() {
	if a.send != nil {
		_ = a.send(&murmurv1.AttachRequest{Report: &murmurv1.AttachRequest_Service{Service: a.reportLocked()}})
	}
}

func (a *fakeAgent) reportLocked() *murmurv1.ServiceReport {
	rep := &murmurv1.ServiceReport{
		Status:    &murmurv1.HostService{Service: testService, Active: a.active, State: "running"},
		Attempted: a.attempt, Outcome: a.outcome, Error: a.errText, Order: a.seen, Retry: a.retry,
	}
	for id := range a.staged {
		rep.Staged = append(rep.Staged, &murmurv1.StagedRelease{ReleaseId: id, Ready: true})
	}
	if a.outcome == murmurv1.Outcome_OUTCOME_FAILED {
		rep.Scripts = []*murmurv1.ScriptOutput{{Phase: "post", Name: "check", ExitCode: 1, Output: []byte("boom")}}
	}
	return rep
}

// finish lets a held activation end well.
func (a *fakeAgent) finish(release string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.held, release)
	if a.attempt == release && a.outcome == murmurv1.Outcome_OUTCOME_IN_PROGRESS {
		a.active, a.outcome = release, murmurv1.Outcome_OUTCOME_HEALTHY
		a.ran = append(a.ran, release)
		a.sayLocked()
	}
}

func (a *fakeAgent) runs() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.active
}

func (a *fakeAgent) isStopped() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stopped
}

// told is every release the agent was told to run, in order, without repeats.
func (a *fakeAgent) told() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.history)
}
