package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"
)

const (
	pingEvery = 10 * time.Second
	// deafAfter ends a session in which nothing was heard, not even the answer to a ping.
	deafAfter = 25 * time.Second
	// steady is how long a session must have lasted for the next one to start without a pause built up.
	steady    = 30 * time.Second
	firstWait = 500 * time.Millisecond
	maxWait   = 30 * time.Second
	// maxDirective bounds one message from a seeder.
	maxDirective = 32 << 20
)

var errDeaf = fmt.Errorf("heard nothing for %v", deafAfter)

// attach keeps a session to one of the seeders for as long as ctx lasts.
func (a *Agent) attach(ctx context.Context) {
	failures := 0
	for try := 0; ctx.Err() == nil; try++ {
		url := a.cfg.Seeders[(int(spread(a.cfg.HostID, 0)%1024)+try)%len(a.cfg.Seeders)]
		start := time.Now()
		err := a.session(ctx, url)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > steady {
			failures = 0
		}
		wait := backoff(a.cfg.HostID, failures)
		failures++
		a.log.Warn("session ended", "seeder", url, "err", err, "again_in", wait.Round(time.Millisecond))
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
	}
}

// backoff is how long to wait after so many failures in a row: growing, capped, and somewhere in its upper half
// by a hash of the host's id, so that a fleet cut off at once does not come back at once.
func backoff(host string, failures int) time.Duration {
	ceiling := min(firstWait<<min(failures, 16), maxWait)
	return ceiling/2 + time.Duration(spread(host, failures)%uint64(ceiling/2+1))
}

func spread(host string, n int) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%d", host, n) // a hash never fails
	return h.Sum64()
}

// session is one stream to one seeder, from hello to its end.
func (a *Agent) session(ctx context.Context, url string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	client := murmurv1connect.NewSessionServiceClient(a.cfg.Client, url, connect.WithReadMaxBytes(maxDirective))
	stream := client.Attach(ctx)
	hello, err := a.hello(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(hello); err != nil {
		_, err = stream.Receive() // the stream's own error says more
		return errors.Join(err, stream.CloseRequest(), stream.CloseResponse())
	}
	deaf := time.AfterFunc(deafAfter, func() { cancel(errDeaf) })
	defer deaf.Stop()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		// The HTTP/2 client notices the end of a context only once the request's body has ended.
		defer stream.CloseRequest()
		return a.sendAll(ctx, stream)
	})
	g.Go(func() error {
		defer cancel(nil)
		for {
			m, err := stream.Receive()
			if err != nil {
				return fmt.Errorf("session: %w", err)
			}
			deaf.Reset(deafAfter)
			if err := a.hear(ctx, url, m); err != nil {
				return err
			}
		}
	})
	err = g.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, errDeaf) {
		err = errDeaf
	}
	a.setSeeder("")
	// The stream is over already; closing it only frees what it holds.
	_, _ = stream.CloseRequest(), stream.CloseResponse()
	return err
}

func (a *Agent) sendAll(ctx context.Context, stream *connect.BidiStreamForClient[murmurv1.AttachRequest, murmurv1.AttachResponse]) error {
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for nonce := uint64(1); ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ping.C:
			err := stream.Send(&murmurv1.AttachRequest{Report: &murmurv1.AttachRequest_Ping{Ping: &murmurv1.Ping{Nonce: nonce}}})
			if err != nil {
				return fmt.Errorf("ping: %w", err)
			}
			nonce++
		case <-a.out.ready:
			for _, m := range a.out.take() {
				if err := stream.Send(m); err != nil {
					return fmt.Errorf("report: %w", err)
				}
			}
		}
	}
}

// errRejoin ends a session whose seeder knows this host no more.
var errRejoin = errors.New("the fleet has removed this host: join it again with a new token")

// hear passes a directive on to the loop, or deals with it when it concerns none of the loop's state.
func (a *Agent) hear(ctx context.Context, url string, m *murmurv1.AttachResponse) error {
	switch d := m.GetDirective().(type) {
	case *murmurv1.AttachResponse_Desired:
		a.setSeeder(url)
		a.do(ctx, func(l *loop) { l.told(d.Desired) })
	case *murmurv1.AttachResponse_Peers:
		peers := make([]Peer, 0, len(d.Peers.GetPeers()))
		for _, p := range d.Peers.GetPeers() {
			peers = append(peers, Peer{Name: p.GetHostId(), Addr: p.GetAddress()})
		}
		a.cfg.Swarm.AddPeers(d.Peers.GetInfohash(), peers)
	case *murmurv1.AttachResponse_Trust:
		if a.cfg.Trust == nil {
			return nil
		}
		changed, err := a.cfg.Trust.UpdateTrust(d.Trust.GetEnvelope())
		if err != nil {
			a.log.Error("trust bundle refused", "err", err)
		} else if changed {
			a.do(ctx, func(l *loop) { l.retryStages() })
		}
	case *murmurv1.AttachResponse_Rejoin:
		return fmt.Errorf("%w: %s", errRejoin, d.Rejoin.GetReason())
	}
	return nil
}
