package seeder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/wire"
)

// forwardedHeader marks a request that a follower passed on; it is passed on once only.
const forwardedHeader = "Murmur-Forwarded-By"

// forwarder passes requests that only the leader can answer on to it, with the caller's own credentials. What the
// emergency stop needs is always answered here.
type forwarder struct {
	seeder *Seeder
	proxy  *httputil.ReverseProxy
}

// alwaysHere are answered by every seeder itself: they need no leader, or what they need is local.
var alwaysHere = map[string]bool{
	murmurv1connect.RolloutServiceStopProcedure:       true,
	murmurv1connect.RolloutServiceLiftStopProcedure:   true,
	murmurv1connect.RolloutServiceGetStopProcedure:    true,
	murmurv1connect.RolloutServiceGetScriptsProcedure: true,
}

func newForwarder(s *Seeder) *forwarder {
	return &forwarder{seeder: s, proxy: &httputil.ReverseProxy{
		Transport: s.desk.client.Transport, FlushInterval: -1, ErrorLog: quietLog(s.log),
		Rewrite: func(r *httputil.ProxyRequest) {
			_, leader, _, _ := s.view.fleetState()
			r.SetURL(&url.URL{Scheme: "https", Host: leader.Address})
			r.SetXForwarded()
			r.Out.Header.Set(forwardedHeader, s.cfg.ID)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			_, leader, _, _ := s.view.fleetState()
			writeText(w, http.StatusServiceUnavailable, fmt.Sprintf("the leader %s at %s does not answer: %v\n", leader.Seeder, leader.Address, err))
		},
	}}
}

func (f *forwarder) wrap(here http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, leader, _, _ := f.seeder.view.fleetState()
		switch {
		case f.seeder.Leading(), alwaysHere[r.URL.Path], r.Header.Get(forwardedHeader) != "",
			leader.Address == "", leader.Seeder == f.seeder.cfg.ID:
			here.ServeHTTP(w, r)
		default:
			f.proxy.ServeHTTP(w, r)
		}
	})
}

// followers is the handler of LeaderService: what other seeders' hosts say.
type followers struct {
	log      *slog.Logger
	roster   *roster
	loop     *loop
	counters func(host string, c *murmurv1.CounterReport)
}

// Follow takes in what a follower hears until its stream ends.
func (f *followers) Follow(ctx context.Context, stream *connect.ClientStream[murmurv1.FollowRequest]) (*connect.Response[murmurv1.FollowResponse], error) {
	peer, ok := identity.PeerFromContext(ctx)
	if !ok || peer.Kind != identity.KindSeeder {
		return nil, wire.Denied("only seeders follow")
	}
	if f.loop.reigning.ended() == nil {
		return nil, wire.Unavailable("%w", errNotLeader)
	}
	read := deadlines(ctx)
	defer read.expireWith(endContext(ctx, f.loop.reigning.ended()))()
	defer f.roster.dropSeeder(peer.ID, time.Now())
	for stream.Receive() {
		for _, news := range stream.Msg().Hosts {
			f.take(peer.ID, news)
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.FollowResponse{}), nil
}

// endContext ends when ctx does or the channel is closed.
func endContext(ctx context.Context, ended <-chan struct{}) context.Context {
	out, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		select {
		case <-ended:
		case <-ctx.Done():
		}
	}()
	return out
}

func (f *followers) take(seeder string, news *murmurv1.HostNews) {
	if news.GetHostId() == "" || len(news.HostId) > 128 {
		return
	}
	f.roster.update(news.HostId, func(p *presence) {
		if !news.Connected && p.connected && p.seeder != seeder {
			return // it attached to another seeder meanwhile
		}
		p.seeder, p.connected, p.lastSeen = seeder, news.Connected, wire.ToTime(news.LastSeen)
		p.version, p.address, p.facts = news.AgentVersion, news.SwarmAddress, news.Facts
		clear(p.services)
		clear(p.stages)
		for _, rep := range news.Services {
			if wire.Report(rep) == nil {
				p.setService(rep)
			}
		}
		for _, st := range news.Stages {
			if wire.Progress(st) {
				p.setStage(st)
			}
		}
	})
	for _, c := range news.Counters {
		if wire.Counters(c) {
			f.counters(news.HostId, c)
		}
	}
}

// newsChunk bounds the hosts in one message to the leader; newsPause is the least time between two messages.
const (
	newsChunk = 500
	newsPause = 50 * time.Millisecond
)

// follow tells the leader what this seeder's hosts say, whenever another one leads.
func (s *Seeder) follow(ctx context.Context) error {
	for wait := retryFirst; ctx.Err() == nil; {
		changed := s.view.changed.wait()
		_, leader, _, _ := s.view.fleetState()
		if s.Leading() || leader.Address == "" || leader.Seeder == s.cfg.ID {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		began := time.Now()
		err := s.followLeader(ctx, leader.Address, leader.Term)
		if ctx.Err() == nil {
			s.log.Info("no longer following", "leader", leader.Seeder, "err", err)
		}
		if time.Since(began) > retryLast {
			wait = retryFirst
		}
		sleep(ctx, wait)
		wait = min(2*wait, retryLast)
	}
	return nil
}

func (s *Seeder) followLeader(ctx context.Context, address string, term uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := murmurv1connect.NewLeaderServiceClient(s.desk.client, "https://"+address)
	stream := client.Follow(ctx)
	dirty := s.roster.subscribe()
	defer s.roster.unsubscribe(dirty)
	dirty.mark(s.roster.attachedTo(s.cfg.ID)...)
	for {
		hosts := dirty.take()
		if err := s.sendNews(stream, hosts); err != nil {
			_, closeErr := stream.CloseAndReceive()
			return errors.Join(err, closeErr)
		}
		sleep(ctx, newsPause)
		changed := s.view.changed.wait()
		if _, leader, _, _ := s.view.fleetState(); leader.Term != term {
			_, err := stream.CloseAndReceive()
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-dirty.wake:
		case <-changed:
		}
	}
}

func (s *Seeder) sendNews(stream *connect.ClientStreamForClient[murmurv1.FollowRequest, murmurv1.FollowResponse], hosts map[string]struct{}) error {
	msg := &murmurv1.FollowRequest{Seeder: s.cfg.ID}
	for host := range hosts {
		p, ok := s.roster.get(host)
		if !ok || p.seeder != s.cfg.ID {
			continue
		}
		news := &murmurv1.HostNews{
			HostId: host, Connected: p.connected, LastSeen: wire.Time(p.lastSeen), AgentVersion: p.version,
			SwarmAddress: p.address, Facts: p.facts,
		}
		for _, rep := range p.services {
			news.Services = append(news.Services, rep)
		}
		for _, st := range p.stages {
			news.Stages = append(news.Stages, st)
		}
		if msg.Hosts = append(msg.Hosts, news); len(msg.Hosts) == newsChunk {
			if err := stream.Send(msg); err != nil {
				return err
			}
			msg = &murmurv1.FollowRequest{Seeder: s.cfg.ID}
		}
	}
	return stream.Send(msg)
}

// attachedTo lists the hosts last heard of through a seeder.
func (r *roster) attachedTo(seeder string) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []string
	for id, p := range r.hosts {
		if p.seeder == seeder {
			out = append(out, id)
		}
	}
	return out
}
