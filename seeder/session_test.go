package seeder

import (
	"crypto/tls"
	"testing"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"

	"github.com/murmuration/murmuration/rollout"
)

// helloCode opens a session with a certificate and a claimed host, and returns how it is refused.
func (w *world) helloCode(s *running, cert *tls.Certificate, host string) connect.Code {
	w.tb.Helper()
	stream := murmurv1connect.NewSessionServiceClient(w.client(cert), "https://"+s.Addr()).Attach(w.tb.Context())
	defer stream.CloseResponse()
	defer stream.CloseRequest()
	// The send may fail when the refusal is faster; the answer says why.
	_ = stream.Send(&murmurv1.AttachRequest{Report: &murmurv1.AttachRequest_Hello{Hello: &murmurv1.Hello{HostId: host}}})
	_, err := stream.Receive()
	return connect.CodeOf(err)
}

func TestStrangersGetNoSession(t *testing.T) {
	w := newWorld(t)
	s := w.seeder("s1")
	w.host("ha", "r1")
	other := newWorld(t)
	if got := w.helloCode(s, w.certificate("hb"), "ha"); got != connect.CodePermissionDenied {
		t.Errorf("another host's certificate: %v", got)
	}
	if got := w.helloCode(s, nil, "ha"); got != connect.CodeUnauthenticated {
		t.Errorf("no certificate: %v", got)
	}
	if got := w.helloCode(s, other.certificate("ha"), "ha"); got == 0 || got == connect.CodePermissionDenied {
		t.Errorf("another fleet's certificate: %v, want the handshake refused", got)
	}
	if n := len(s.sessions.all()); n != 0 {
		t.Errorf("%d sessions are open", n)
	}
}

func TestHostThatIsNotInTheFleetMustJoinAgain(t *testing.T) {
	w := newWorld(t)
	s := w.seeder("s1")
	a := w.agent("ha", "r1", "")
	w.attach(s, a)
	if _, err := w.api(s).fleet.RemoveHost(t.Context(), connect.NewRequest(&murmurv1.RemoveHostRequest{Id: "name-ha"})); err != nil {
		t.Fatal(err)
	}
	w.must(func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.rejoin != ""
	}, "the agent told to join again")
	w.must(func() bool { return len(s.sessions.all()) == 0 }, "the session ended")
}

func TestSecondSessionReplacesTheFirst(t *testing.T) {
	w := newWorld(t)
	old := w.release(1, quick())
	w.stable(old)
	s := w.seeder("s1")
	a := w.agent("ha", "r1", "")
	w.attach(s, a)
	first := s.sessions.of("ha")
	twin := &fakeAgent{tb: t, host: "ha", cert: a.cert, staged: map[string]bool{}, bad: map[string]bool{}, held: map[string]bool{}}
	w.attach(s, twin)
	<-first.ctx.Done()
	if second := s.sessions.of("ha"); second == nil || second == first {
		t.Errorf("session %p is registered, want a second one beside %p", second, first)
	}
	w.must(func() bool { return twin.runs() == old }, "the second session obeyed")
}

func TestAgentAheadOfTheSeederIsToldNothingOld(t *testing.T) {
	w := newWorld(t)
	old := w.release(1, quick())
	w.stable(old)
	s := w.seeder("s1")
	w.must(s.Leading, "a leader")
	sess := newSession(t.Context(), "ha", &murmurv1.Order{Term: 1 << 60, Revision: 1})
	w.host("ha", "r1")
	w.must(func() bool { _, ok := s.view.host("ha"); return ok }, "the host in the view")
	for _, m := range sess.take(s.Seeder) {
		if m.GetDesired() != nil {
			t.Errorf("an order was sent that is older than the one obeyed: %v", m)
		}
	}
	if !sess.behind() {
		t.Error("the session does not wait for the view")
	}
}

func TestLostHostIsNoFailureAndComesBack(t *testing.T) {
	w := newWorld(t)
	old, next := w.release(1, manual()), w.release(2, manual())
	w.stable(old)
	s := w.seeder("s1")
	agents := map[string]*fakeAgent{}
	detach := map[string]func(){}
	for _, id := range []string{"ha", "hb", "hc"} {
		agents[id] = w.agent(id, "r1", old)
		detach[id] = w.attach(s, agents[id])
	}
	api := w.api(s)
	id := api.start(t, next)
	last := w.awaitPhase(id, rollout.Paused).Plan.Hosts[2].ID
	detach[last]()
	w.must(func() bool { return w.rollout(id).Hosts[2].Lost }, "the host counted as lost")
	w.attach(s, agents[last])
	w.must(func() bool { return !w.rollout(id).Hosts[2].Lost }, "the host counted as back")
	api.steer(t, id, murmurv1.Steer_STEER_PROMOTE)
	w.awaitPhase(id, rollout.Complete)
	w.must(func() bool { return agents[last].runs() == next }, "the returned host on the new release")
}
