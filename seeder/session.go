package seeder

import (
	"context"
	"sync"
	"time"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

// session is one attached agent. The handler's goroutine receives, one more sends; nobody else ever waits for
// the host. What is to be sent is not queued but marked: the sender makes the newest message when it gets to it,
// so a slow host costs a few bytes and is never sent what is already out of date.
type session struct {
	host   string
	wake   chan struct{}
	cancel context.CancelCauseFunc
	ctx    context.Context

	mu      sync.Mutex
	desired bool              // the host's Desired changed since it was sent
	prints  map[string]uint64 // of what was sent, by service
	trust   int64             // version of the trust bundle sent
	peers   map[string]bool   // infohashes whose peers changed
	pongs   []*murmurv1.Ping
	seen    *murmurv1.Order // the newest order the agent said it obeyed when it attached
}

// maxPongs bounds the answers a host can make a session remember; further pings are not answered.
const maxPongs = 8

func newSession(ctx context.Context, host string, seen *murmurv1.Order) *session {
	ctx, cancel := context.WithCancelCause(ctx)
	return &session{
		host: host, wake: make(chan struct{}, 1), ctx: ctx, cancel: cancel,
		desired: true, peers: map[string]bool{}, seen: seen,
	}
}

// poke wakes the sender.
func (s *session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// markDesired asks for the host's whole Desired to be sent.
func (s *session) markDesired() {
	s.mu.Lock()
	s.desired = true
	s.mu.Unlock()
	s.poke()
}

// markChanged asks for it only when a service's part differs from what was sent.
func (s *session) markChanged(service string, print uint64) {
	s.mu.Lock()
	differs := s.prints[service] != print
	s.desired = s.desired || differs
	s.mu.Unlock()
	if differs {
		s.poke()
	}
}

// markPeers asks for the peers of a torrent to be sent.
func (s *session) markPeers(infohash string) {
	s.mu.Lock()
	s.peers[infohash] = true
	s.mu.Unlock()
	s.poke()
}

func (s *session) pong(p *murmurv1.Ping) {
	s.mu.Lock()
	if len(s.pongs) < maxPongs {
		s.pongs = append(s.pongs, p)
	}
	s.mu.Unlock()
	s.poke()
}

// outbox is what a session's sender needs from the seeder.
type outbox interface {
	// desired is the host's Desired and its fingerprints, nil when the host is not in the fleet.
	desired(host string) (*murmurv1.Desired, map[string]uint64)
	// peers is whom the host may ask for a torrent.
	peers(host, infohash string) *murmurv1.Peers
	// joins puts the host into the swarms of what it was just told to have and returns their infohashes.
	joins(host string, d *murmurv1.Desired) []string
	// trustBundle is the signed list of builder keys and its version, 0 when there is none.
	trustBundle() (envelope []byte, version int64)
}

// take makes the messages that are due, newest truth first read under the session's lock: a change that comes
// while it runs finds the fingerprints of what was just made and marks again.
func (s *session) take(from outbox) []*murmurv1.AttachResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*murmurv1.AttachResponse
	if envelope, version := from.trustBundle(); version > s.trust {
		s.trust = version
		out = append(out, &murmurv1.AttachResponse{Directive: &murmurv1.AttachResponse_Trust{
			Trust: &murmurv1.TrustBundle{Envelope: envelope},
		}})
	}
	if s.desired {
		out = s.takeDesired(from, out)
	}
	for infohash := range s.peers {
		if p := from.peers(s.host, infohash); p != nil && len(p.Peers) > 0 {
			out = append(out, &murmurv1.AttachResponse{Directive: &murmurv1.AttachResponse_Peers{Peers: p}})
		}
	}
	clear(s.peers)
	for _, p := range s.pongs {
		out = append(out, &murmurv1.AttachResponse{Directive: &murmurv1.AttachResponse_Pong{Pong: p}})
	}
	s.pongs = nil
	return out
}

// takeDesired adds the Desired, unless this seeder's view is still behind what the agent already obeyed.
func (s *session) takeDesired(from outbox, out []*murmurv1.AttachResponse) []*murmurv1.AttachResponse {
	d, prints := from.desired(s.host)
	switch {
	case d == nil:
		s.desired = false
		return append(out, &murmurv1.AttachResponse{Directive: &murmurv1.AttachResponse_Rejoin{
			Rejoin: &murmurv1.Rejoin{Reason: "this host is not in the fleet any more"},
		}})
	case olderOrder(d.Order, s.seen):
		return out // the view's next batch marks the session again
	}
	s.desired, s.prints, s.seen = false, prints, nil
	for _, infohash := range from.joins(s.host, d) {
		s.peers[infohash] = true
	}
	return append(out, &murmurv1.AttachResponse{Directive: &murmurv1.AttachResponse_Desired{Desired: d}})
}

// olderOrder reports whether a comes before b.
func olderOrder(a, b *murmurv1.Order) bool {
	if a.GetTerm() != b.GetTerm() {
		return a.GetTerm() < b.GetTerm()
	}
	return a.GetRevision() < b.GetRevision()
}

// behind reports whether the session waits for the view to catch up with its agent.
func (s *session) behind() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.desired && s.seen != nil
}

// send passes on what is due until the session ends. Rejoin is the last message a host gets.
func (s *session) send(from outbox, write func(*murmurv1.AttachResponse) error) error {
	for {
		for _, m := range s.take(from) {
			if err := write(m); err != nil {
				return err
			}
			if m.GetRejoin() != nil {
				return errRejoin
			}
		}
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
}

// sessionIdle is how long a session may be silent: agents ping several times in this time.
const sessionIdle = 90 * time.Second
