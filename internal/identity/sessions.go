package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/murmuration/murmuration/internal/record"
)

func sessionKey(id string) record.Key { return record.Key{Kind: record.KindSession, ID: id} }

// Login checks a password and begins a log-in. The token is the bearer for all further requests; it is not stored.
// Failed tries are limited for each user and address (5, then one in 30 s) and for each address (30, then one
// in 2 s); the address is the one that [Authority.Middleware] noted.
func (a *Authority) Login(ctx context.Context, name, password string) (token string, s record.Session, u record.User, err error) {
	origin, _ := ctx.Value(originKey{}).(origin)
	key := name + "\x00" + origin.from
	if !a.from.take(origin.from) || !a.logins.take(key) {
		a.log.Warn("log-in refused: too many tries", "user", loggable(name), "from", origin.from)
		return "", s, u, ErrTooManyTries
	}
	u, err = a.checkPassword(ctx, name, password)
	if err != nil {
		if errors.Is(err, ErrBadCredentials) {
			a.log.Warn("log-in failed", "user", loggable(name), "from", origin.from)
		}
		return "", s, u, err
	}
	a.logins.reset(key)
	a.from.giveBack(origin.from)
	id, secret := newSecret()
	at := now()
	s = record.Session{ID: id, User: u.Name, Secret: hashSecret(secret), From: origin.from, Epoch: u.Epoch, CreatedAt: at, ExpiresAt: at.Add(a.ttl)}
	op, err := put(sessionKey(id), s, 0)
	if err != nil {
		return "", s, u, err
	}
	ctx = WithCaller(ctx, Caller{Name: u.Name, User: u.Name, From: origin.from})
	if _, err := a.Commit(ctx, "session.begin", "user/"+u.Name, "", nil, s, op); err != nil {
		return "", s, u, err
	}
	return bearer{prefixSession, id, secret}.String(), s, u, nil
}

// loggable shortens what a stranger sent. People type passwords into the field for the name: names that no user
// can have are not logged.
func loggable(name string) string {
	if validName("", name) != nil {
		return "(not a name)"
	}
	return name
}

// checkPassword returns the user if the password is right. A wrong name costs as much time as a wrong password.
func (a *Authority) checkPassword(ctx context.Context, name, password string) (record.User, error) {
	stored, known := a.hasher.dummy, false
	var u record.User
	if validName("", name) == nil {
		var err error
		u, _, err = load[record.User](ctx, a.store, userKey(name))
		if err != nil && !errors.Is(err, record.ErrNotFound) {
			return u, err
		}
		known = err == nil && u.Password != "" && !u.Disabled
	}
	if known {
		stored = u.Password
	}
	ok, err := a.hasher.check(ctx, stored, password)
	if err != nil {
		return u, fmt.Errorf("check the password: %w", err)
	}
	if !ok || !known {
		return record.User{}, ErrBadCredentials
	}
	return u, nil
}

// Logout ends the caller's log-in.
func (a *Authority) Logout(ctx context.Context) error {
	c := CallerFrom(ctx)
	if c.Session == "" {
		return nil // an API token has no log-in to end
	}
	_, err := a.Commit(ctx, "session.end", "user/"+c.User, "", nil, nil, record.Drop(sessionKey(c.Session), record.Any))
	return err
}

// authenticateBearer says who a bearer token stands for.
func (a *Authority) authenticateBearer(ctx context.Context, token string, c Caller) (Caller, error) {
	b, ok := parseBearer(token)
	if !ok {
		return Caller{}, ErrBadToken
	}
	var err error
	if b.prefix == prefixAPI {
		c, err = a.byToken(ctx, b, c)
	} else {
		c, err = a.bySession(ctx, b, c)
	}
	if errors.Is(err, record.ErrNotFound) {
		return Caller{}, ErrBadToken
	}
	if err != nil {
		return Caller{}, err
	}
	return c, nil
}

func (a *Authority) bySession(ctx context.Context, b bearer, c Caller) (Caller, error) {
	s, rev, err := load[record.Session](ctx, a.cache, sessionKey(b.id))
	if err != nil {
		return c, err
	}
	at := now()
	if !secretFits(s.Secret, b.secret) || at.After(s.ExpiresAt) || at.After(s.CreatedAt.Add(maxSession)) {
		return c, ErrBadToken
	}
	u, role, err := a.activeUser(ctx, s.User)
	if err != nil {
		return c, err
	}
	if u.Epoch != s.Epoch {
		return c, ErrBadToken
	}
	if s.ExpiresAt.Sub(at) < a.ttl-a.ttl/12 {
		s.ExpiresAt = at.Add(a.ttl)
		a.touchLater(touch{key: sessionKey(s.ID), rev: rev, form: s})
	}
	c.Name, c.User, c.Role, c.Session = s.User, s.User, role, s.ID
	return c, nil
}

// activeUser is a user who may act now, and the user's role.
func (a *Authority) activeUser(ctx context.Context, name string) (record.User, Role, error) {
	u, _, err := load[record.User](ctx, a.cache, userKey(name))
	if err != nil {
		return u, Nobody, err
	}
	role, err := ParseRole(u.Role)
	if err != nil || u.Disabled {
		return u, Nobody, ErrBadToken
	}
	return u, role, nil
}

// touch is a record to be written because it was used: a session's new end, a token's last use.
type touch struct {
	key  record.Key
	rev  int64
	form record.Form
}

// touchTimeout bounds one such write.
const touchTimeout = 5 * time.Second

// touchLater queues a touch. When the queue is full it is dropped: the next use makes another.
func (a *Authority) touchLater(t touch) {
	select {
	case a.touch <- t:
	default:
	}
}

// runTouches writes touches until ctx ends. Requests never wait for them.
func (a *Authority) runTouches(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case t := <-a.touch:
			a.writeTouch(ctx, t)
		}
	}
}

func (a *Authority) writeTouch(ctx context.Context, t touch) {
	ctx, cancel := context.WithTimeout(ctx, touchTimeout)
	defer cancel()
	op, err := put(t.key, t.form, t.rev)
	if err == nil {
		_, err = a.store.Commit(ctx, op)
	}
	if err != nil && !errors.Is(err, record.ErrConflict) {
		a.log.Warn("the use of a log-in or token was not written down", "key", t.key.Kind, "err", err)
	}
}

// sweepEvery is how often what has expired is removed from the store.
const sweepEvery = time.Hour

// runSweeps removes expired log-ins and tokens until ctx ends. All servers do it; only one removal counts.
func (a *Authority) runSweeps(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := a.Sweep(ctx); err != nil {
				a.log.Warn("removing expired log-ins failed", "err", err)
			}
		}
	}
}

// tombstone is how long an expired join token is kept, so that its late use gets a clear answer.
const tombstone = 30 * 24 * time.Hour

// Sweep removes log-ins, API tokens and join tokens that ended. [Authority.Run] does it every hour.
func (a *Authority) Sweep(ctx context.Context) error {
	at := now()
	return errors.Join(
		sweep(ctx, a.store, record.KindSession, func(s record.Session) bool { return at.After(s.ExpiresAt) }),
		sweep(ctx, a.store, record.KindToken, func(t record.Token) bool { return !t.ExpiresAt.IsZero() && at.After(t.ExpiresAt) }),
		sweep(ctx, a.store, record.KindJoin, func(t record.JoinToken) bool { return at.After(t.ExpiresAt.Add(tombstone)) }),
	)
}

// sweep removes the records of a kind that are over. One that changed meanwhile is left for the next time.
func sweep[T record.Form](ctx context.Context, store record.Store, kind record.Kind, over func(T) bool) error {
	items, _, err := store.List(ctx, kind, "")
	if err != nil {
		return err
	}
	for _, item := range items {
		form, err := record.Decode[T](item.Value)
		if err != nil || !over(form) {
			continue
		}
		if _, err := store.Commit(ctx, record.Drop(item.Key, item.Rev)); err != nil && !errors.Is(err, record.ErrConflict) {
			return err
		}
	}
	return nil
}
