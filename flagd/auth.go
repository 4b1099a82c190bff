package flagd

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
)

// Bounds of what is remembered about readers.
const (
	maxReaders   = 10_000
	readerMemory = 24 * time.Hour
)

// readers admits those who may read flags. Who was admitted is believed for a moment, so that a busy client costs one
// look-up; and for a day while the store is away, so that a restart without it can serve. Only digests are
// remembered for that long. It is safe for concurrent use.
type readers struct {
	authority *identity.Authority
	trusted   time.Duration

	mu    sync.RWMutex
	fresh map[string]admitted  // by credential
	known map[string]time.Time // by digest of the credential: until when it is good without the store
}

type admitted struct {
	name  string
	until time.Time
}

func newReaders(a *identity.Authority, trusted time.Duration) *readers {
	return &readers{authority: a, trusted: trusted, fresh: map[string]admitted{}, known: map[string]time.Time{}}
}

// admit says who makes a request, or why not.
func (r *readers) admit(req *http.Request) (string, error) {
	credential := credentialOf(req)
	if credential == "" {
		return r.ask(req)
	}
	r.mu.RLock()
	a, ok := r.fresh[credential]
	r.mu.RUnlock()
	now := time.Now()
	if ok && now.Before(a.until) {
		return a.name, nil
	}
	name, err := r.ask(req)
	switch {
	case err == nil:
		r.remember(credential, name, now)
	case errors.Is(err, record.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded):
		if r.knew(credential, now) {
			return "(known reader)", nil
		}
	default:
		r.forget(credential)
	}
	return name, err
}

// ask asks the authority. An X-API-Key counts as a bearer token.
func (r *readers) ask(req *http.Request) (string, error) {
	if key := req.Header.Get("X-Api-Key"); key != "" && req.Header.Get("Authorization") == "" {
		clone := *req
		clone.Header = http.Header{"Authorization": {"Bearer " + key}}
		req = &clone
	}
	caller, err := r.authority.Authorize(req, identity.Viewer, identity.KindHost, identity.KindSeeder)
	return caller.Name, err
}

// credentialOf is the header that says who asks.
func credentialOf(req *http.Request) string {
	if h := req.Header["Authorization"]; len(h) > 0 {
		return h[0]
	}
	if h := req.Header["X-Api-Key"]; len(h) > 0 && h[0] != "" {
		return "Bearer " + h[0]
	}
	return ""
}

func digestOf(credential string) string {
	sum := sha256.Sum256([]byte(credential))
	return hex.EncodeToString(sum[:])
}

func (r *readers) remember(credential, name string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.fresh) >= maxReaders {
		clear(r.fresh)
	}
	r.fresh[credential] = admitted{name, now.Add(r.trusted)}
	if len(r.known) < maxReaders {
		r.known[digestOf(credential)] = now.Add(readerMemory)
	}
}

func (r *readers) knew(credential string, now time.Time) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return now.Before(r.known[digestOf(credential)])
}

func (r *readers) forget(credential string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.fresh, credential)
	delete(r.known, digestOf(credential))
}

// keep is what the disk copy holds of the readers.
func (r *readers) keep() map[string]time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	out := make(map[string]time.Time, len(r.known))
	for digest, until := range r.known {
		if now.Before(until) {
			out[digest] = until.UTC()
		} else {
			delete(r.known, digest)
		}
	}
	return out
}

func (r *readers) restore(known map[string]time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	most := time.Now().Add(readerMemory)
	for digest, until := range known {
		if len(r.known) < maxReaders && until.Before(most) {
			r.known[digest] = until
		}
	}
}

// tickets signs and checks the tickets that ride in the URLs of OFREP event streams. A ticket says "somebody who could
// read, until then" and nothing else. All servers of a fleet share the secret, so a ticket is good at each.
type tickets struct {
	mu     sync.RWMutex
	secret []byte
}

// ticketWindow is how long a caller is handed the same ticket: a new URL would make clients reconnect. A ticket is good
// for at most two windows.
const ticketWindow = 12 * time.Hour

var ticketText = base64.RawURLEncoding

func (t *tickets) get() []byte {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.secret
}

func (t *tickets) set(secret []byte) {
	if len(secret) != sha256.Size {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.secret = secret
}

// issue makes the ticket of this window; "" while there is no secret.
func (t *tickets) issue(now time.Time) string {
	secret := t.get()
	if secret == nil {
		return ""
	}
	end := now.Truncate(ticketWindow).Add(2 * ticketWindow)
	return ticketText.EncodeToString(sealTicket(secret, end))
}

func sealTicket(secret []byte, end time.Time) []byte {
	ticket := binary.BigEndian.AppendUint64(nil, uint64(end.Unix()))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("ofrep event stream\x00"))
	mac.Write(ticket)
	return mac.Sum(ticket)
}

// good reports whether a ticket is one of ours and still valid.
func (t *tickets) good(text string, now time.Time) bool {
	secret := t.get()
	ticket, err := ticketText.DecodeString(text)
	if err != nil || secret == nil || len(ticket) != 8+sha256.Size {
		return false
	}
	end := time.Unix(int64(binary.BigEndian.Uint64(ticket)), 0)
	return hmac.Equal(ticket, sealTicket(secret, end)) && now.Before(end) && end.Sub(now) <= 2*ticketWindow
}

// keepTickets fetches the fleet's secret, or makes it, as soon as the store answers.
func (s *Server) keepTickets(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 10*time.Second) {
		err := s.fetchTickets(ctx)
		if err == nil {
			return nil
		}
		s.log.Warn("the secret of event stream tickets cannot be read yet", "err", err)
		sleep(ctx, wait)
	}
	return nil
}

func (s *Server) fetchTickets(ctx context.Context) error {
	form := record.FlagTickets{Secret: make([]byte, sha256.Size)}
	rand.Read(form.Secret)
	_, err := record.Create(ctx, s.cfg.Store, record.FlagTicketsKey, form)
	if err != nil && !errors.Is(err, record.ErrConflict) {
		return err
	}
	if err != nil {
		if form, _, err = record.Get[record.FlagTickets](ctx, s.cfg.Store, record.FlagTicketsKey); err != nil {
			return err
		}
	}
	s.tickets.set(form.Secret)
	return nil
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
