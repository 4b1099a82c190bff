package seeder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/internal/wire"
)

var (
	errReplaced = errors.New("the host attached again")
	errRejoin   = errors.New("the host was told to join again")
	errStopping = errors.New("the seeder is stopping")
)

// helloTimeout is how long an agent has for its first message.
const helloTimeout = 10 * time.Second

// sessions holds the agents attached to this seeder and is the handler of SessionService. Safe for
// concurrent use.
type sessions struct {
	log     *slog.Logger
	seeder  string
	view    *view
	roster  *roster
	outbox  outbox
	scripts *scriptShelf
	// caller names the host whose certificate the connection has.
	caller func(ctx context.Context) (host string, err error)
	// ended is told about every host whose session ended for good.
	ended func(host string)
	// counters passes on what services on hosts count; it must not block.
	counters func(host string, c *murmurv1.CounterReport)
	// attached tells where the peers of a newly attached host reach it.
	attached func(host, address, from string)
	staged   func(host, service, releaseID string, ready bool)

	mu     sync.Mutex
	byHost map[string]*session
	closed bool
}

// Attach serves one agent.
func (s *sessions) Attach(ctx context.Context, stream *connect.BidiStream[murmurv1.AttachRequest, murmurv1.AttachResponse]) error {
	host, err := s.caller(ctx)
	if err != nil {
		return err
	}
	read := deadlines(ctx)
	read.within(helloTimeout)
	hello, err := s.hello(stream, host)
	if err != nil {
		return err
	}
	sess, err := s.open(ctx, hello)
	if err != nil {
		return err
	}
	defer s.close(sess)
	// A session that ends must also end the Receive below, which only a deadline in the past does.
	defer read.expireWith(sess.ctx)()
	var sender sync.WaitGroup
	sender.Go(func() {
		sess.cancel(sess.send(s.outbox, stream.Send))
	})
	sess.cancel(s.receive(sess, stream, read))
	sender.Wait()
	return endOf(context.Cause(sess.ctx))
}

// endOf says how a session ended: an agent that hangs up is no error.
func endOf(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, errRejoin):
		return nil
	case errors.Is(err, errReplaced):
		return connect.NewError(connect.CodeAborted, err)
	case errors.Is(err, errStopping):
		return connect.NewError(connect.CodeUnavailable, err)
	}
	return err
}

func (s *sessions) hello(stream *connect.BidiStream[murmurv1.AttachRequest, murmurv1.AttachResponse], host string) (*murmurv1.Hello, error) {
	first, err := stream.Receive()
	if err != nil {
		return nil, fmt.Errorf("receive hello: %w", err)
	}
	hello := first.GetHello()
	if hello == nil {
		return nil, wire.Invalid("the first report of a session must be a hello")
	}
	if hello.HostId != host {
		return nil, wire.Denied("the hello is of host %q, the certificate of host %q", wire.Text(hello.HostId, 64), host)
	}
	return hello, nil
}

// open registers the session; one the host had before ends.
func (s *sessions) open(ctx context.Context, hello *murmurv1.Hello) (*session, error) {
	sess := newSession(ctx, hello.HostId, hello.Seen)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, wire.Unavailable("this seeder is stopping: attach to another one")
	}
	old := s.byHost[hello.HostId]
	s.byHost[hello.HostId] = sess
	s.mu.Unlock()
	if old != nil {
		old.cancel(errReplaced)
	}
	s.greet(hello, callerAddress(ctx))
	return sess, nil
}

func (s *sessions) greet(hello *murmurv1.Hello, from string) {
	fresh := make(map[string]*murmurv1.ServiceReport, len(hello.Services))
	for _, rep := range hello.Services {
		if wire.Report(rep) == nil && len(fresh) < maxServicesPerHost {
			s.shelve(hello.HostId, rep)
			fresh[rep.Status.Service] = rep
		}
	}
	s.roster.update(hello.HostId, func(p *presence) {
		p.seeder, p.connected, p.lastSeen = s.seeder, true, time.Now()
		p.version, p.address = wire.Text(hello.AgentVersion, 64), wire.Text(hello.SwarmAddress, 256)
		p.facts, p.services = hello.Facts, fresh
		p.stages = map[string]*murmurv1.StageProgress{}
	})
	s.attached(hello.HostId, wire.Text(hello.SwarmAddress, 256), from)
	for _, rep := range fresh {
		s.tellStaged(hello.HostId, rep)
	}
}

// close takes the session out, unless another of the same host has taken its place.
func (s *sessions) close(sess *session) {
	s.mu.Lock()
	mine := s.byHost[sess.host] == sess
	if mine {
		delete(s.byHost, sess.host)
	}
	s.mu.Unlock()
	if !mine {
		return
	}
	s.roster.update(sess.host, func(p *presence) { p.connected, p.lastSeen = false, time.Now() })
	s.ended(sess.host)
}

func (s *sessions) receive(sess *session, stream *connect.BidiStream[murmurv1.AttachRequest, murmurv1.AttachResponse], read *readDeadline) error {
	for {
		read.within(sessionIdle)
		if err := context.Cause(sess.ctx); err != nil {
			return err
		}
		msg, err := stream.Receive()
		if err != nil {
			return err
		}
		if err := s.heard(sess, msg); err != nil {
			return err
		}
	}
}

// heard takes one report in.
func (s *sessions) heard(sess *session, msg *murmurv1.AttachRequest) error {
	switch r := msg.Report.(type) {
	case *murmurv1.AttachRequest_Service:
		if err := wire.Report(r.Service); err != nil {
			return wire.Invalid("%w", err)
		}
		s.shelve(sess.host, r.Service)
		s.roster.update(sess.host, func(p *presence) { p.lastSeen = time.Now(); p.setService(r.Service) })
		s.tellStaged(sess.host, r.Service)
	case *murmurv1.AttachRequest_Stage:
		if !wire.Progress(r.Stage) {
			return wire.Invalid("a stage's progress makes no sense")
		}
		s.roster.update(sess.host, func(p *presence) { p.lastSeen = time.Now(); p.setStage(r.Stage) })
	case *murmurv1.AttachRequest_Ping:
		s.roster.touch(sess.host, time.Now())
		sess.pong(r.Ping)
	case *murmurv1.AttachRequest_Facts:
		s.roster.update(sess.host, func(p *presence) { p.lastSeen, p.facts = time.Now(), r.Facts })
	case *murmurv1.AttachRequest_Counters:
		if !wire.Counters(r.Counters) {
			return wire.Invalid("a counter report is over its bounds")
		}
		s.counters(sess.host, r.Counters)
	default:
		return wire.Invalid("a report of an unknown kind, or a second hello")
	}
	return nil
}

// shelve moves script output out of a report, so that the roster stays small.
func (s *sessions) shelve(host string, rep *murmurv1.ServiceReport) {
	if len(rep.Scripts) == 0 {
		return
	}
	s.scripts.put(host, rep.Status.Service, wire.StoredScripts(rep, time.Now()), rep.Outcome == murmurv1.Outcome_OUTCOME_FAILED)
	rep.Scripts = nil
}

func (s *sessions) tellStaged(host string, rep *murmurv1.ServiceReport) {
	for _, st := range rep.Staged {
		s.staged(host, rep.Status.Service, st.GetReleaseId(), st.GetReady())
	}
}

// viewChanged marks the sessions whose host must be told something else.
func (s *sessions) viewChanged(d delta) {
	for _, sess := range s.all() {
		_, hostChanged := d.hosts[sess.host]
		if d.all || d.fleet || hostChanged || sess.behind() {
			sess.markDesired()
			continue
		}
		for name := range d.services {
			sess.markChanged(name, s.view.print(name, sess.host))
		}
	}
	for _, host := range d.removed {
		s.roster.forget(host)
	}
}

func (s *sessions) all() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*session, 0, len(s.byHost))
	for _, sess := range s.byHost {
		out = append(out, sess)
	}
	return out
}

// of returns the session of a host attached here, nil when there is none.
func (s *sessions) of(host string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byHost[host]
}

// stop ends every session and refuses new ones.
func (s *sessions) stop() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for _, sess := range s.all() {
		sess.cancel(errStopping)
	}
}
