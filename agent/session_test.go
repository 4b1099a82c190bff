package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"
)

type attachStream = connect.BidiStream[murmurv1.AttachRequest, murmurv1.AttachResponse]

// fakeSeeder serves sessions by a function, over HTTP/2 and TLS.
type fakeSeeder struct {
	murmurv1connect.UnimplementedSessionServiceHandler
	serve func(ctx context.Context, s *attachStream) error
}

func (f fakeSeeder) Attach(ctx context.Context, s *attachStream) error { return f.serve(ctx, s) }

func startSeeder(t *testing.T, serve func(context.Context, *attachStream) error) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(murmurv1connect.NewSessionServiceHandler(fakeSeeder{serve: serve}))
	srv := httptest.NewUnstartedServer(mux)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return srv
}

// hear receives until ok accepts a report.
func hear(s *attachStream, ok func(*murmurv1.AttachRequest) bool) error {
	for {
		m, err := s.Receive()
		if err != nil || ok(m) {
			return err
		}
	}
}

func TestSessionFromHelloToHealthy(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	r1 := shop(t, dir, nil)
	swarm := newFakeSwarm(r1)
	hello := make(chan *murmurv1.Hello, 1)
	healthy := make(chan *murmurv1.ServiceReport, 1)
	staged := make(chan *murmurv1.StageProgress, 1)
	srv := startSeeder(t, func(ctx context.Context, s *attachStream) error {
		m, err := s.Receive()
		if err != nil {
			return err
		}
		hello <- m.GetHello()
		for _, d := range []*murmurv1.AttachResponse{
			{Directive: &murmurv1.AttachResponse_Peers{Peers: &murmurv1.Peers{Infohash: r1.infohash(), Peers: []*murmurv1.Peer{{HostId: "host-8", Address: "10.0.0.8:1"}}}}},
			{Directive: &murmurv1.AttachResponse_Desired{Desired: order(5, r1)}},
		} {
			if err := s.Send(d); err != nil {
				return err
			}
		}
		return hear(s, func(m *murmurv1.AttachRequest) bool {
			if p := m.GetStage(); p != nil && p.Phase == "fetch" {
				select {
				case staged <- p:
				default: // it is said again at the end
				}
			}
			if r := m.GetService(); r.GetOutcome() == murmurv1.Outcome_OUTCOME_HEALTHY {
				healthy <- r
				<-ctx.Done()
				return true
			}
			return false
		})
	})
	cfg := testConfig(root, swarm)
	cfg.Seeders, cfg.Client, cfg.SwarmAddress = []string{srv.URL}, srv.Client(), "10.0.0.7:1"
	cfg.Labels = map[string]string{"rack": "a"}
	boot(t, cfg)

	if h := <-hello; h.HostId != "host-7" || h.SwarmAddress != "10.0.0.7:1" || h.Labels["rack"] != "a" || h.BootId == "" || h.Facts.GetDiskTotal() == 0 {
		t.Errorf("hello %v", h)
	}
	if p := <-staged; p.ReleaseId != r1.id || p.FromPeers != p.BytesTotal || p.BytesTotal != r1.m.Artifact.Size {
		t.Errorf("progress %v", p)
	}
	if r := <-healthy; r.Status.Active != r1.id || r.Order.GetRevision() != 5 || r.Attempted != r1.id {
		t.Errorf("report %v", r)
	}
	swarm.mu.Lock()
	defer swarm.mu.Unlock()
	if got := swarm.peers[r1.infohash()]; len(got) != 1 || got[0] != (Peer{Name: "host-8", Addr: "10.0.0.8:1"}) {
		t.Errorf("peers %v", got)
	}
}

func TestSessionMovesToAnotherSeeder(t *testing.T) {
	second := make(chan bool, 10)
	good := startSeeder(t, func(ctx context.Context, s *attachStream) error {
		second <- true
		<-ctx.Done()
		return nil
	})
	bad := startSeeder(t, func(context.Context, *attachStream) error {
		return connect.NewError(connect.CodeUnavailable, errors.New("not today"))
	})
	cfg := testConfig(t.TempDir(), newFakeSwarm())
	cfg.Seeders = []string{bad.URL, good.URL}
	cfg.Client = &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // two servers of one test
	}}
	boot(t, cfg)
	<-second
}

func TestRejoinEndsTheSession(t *testing.T) {
	a := &Agent{log: testConfig("", nil).Logger}
	err := a.hear(t.Context(), "", &murmurv1.AttachResponse{Directive: &murmurv1.AttachResponse_Rejoin{Rejoin: &murmurv1.Rejoin{Reason: "certificate revoked"}}})
	if !errors.Is(err, errRejoin) || !strings.Contains(err.Error(), "certificate revoked") {
		t.Errorf("got %v", err)
	}
}

func TestBackoffSpreadsHostsAndIsCapped(t *testing.T) {
	buckets := map[time.Duration]int{}
	for i := range 1000 {
		host := fmt.Sprintf("host-%d", i)
		first := backoff(host, 0)
		if first < firstWait/2 || first > firstWait {
			t.Fatalf("%s waits %v at first", host, first)
		}
		long := backoff(host, 50)
		if long < maxWait/2 || long > maxWait {
			t.Fatalf("%s waits %v after many failures", host, long)
		}
		if backoff(host, 50) != long {
			t.Fatal("a host's wait is not its own")
		}
		buckets[long/time.Second]++
	}
	for second, n := range buckets {
		if n > 150 {
			t.Errorf("%d of 1000 hosts come back in second %d", n, second)
		}
	}
}

func TestOutboxKeepsTheNewestOfEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox()
		for i := range 5000 {
			o.put("stage", &murmurv1.AttachRequest{Report: &murmurv1.AttachRequest_Stage{Stage: &murmurv1.StageProgress{BytesDone: int64(i)}}})
		}
		o.put("facts", &murmurv1.AttachRequest{Report: &murmurv1.AttachRequest_Facts{Facts: &murmurv1.HostFacts{}}})
		<-o.ready
		got := o.take()
		if len(got) != 2 || got[0].GetStage().GetBytesDone() != 4999 || got[1].GetFacts() == nil {
			t.Errorf("took %v", got)
		}
		if len(o.take()) != 0 {
			t.Error("took something twice")
		}
	})
}
