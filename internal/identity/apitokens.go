package identity

import (
	"context"
	"errors"
	"time"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

// Life of an API token.
const (
	DefaultTokenTTL = 90 * 24 * time.Hour
	MaxTokenTTL     = 366 * 24 * time.Hour
)

// lastUsedEvery is how exactly a token's last use is known.
const lastUsedEvery = 10 * time.Minute

func tokenKey(id string) record.Key { return record.Key{Kind: record.KindToken, ID: id} }

// CreateToken makes an API token for the caller, of at most the caller's own role; hooks and builders use one of role
// developer. TTL 0 means 90 days, most 366. The token is shown once and not stored. A token stops working
// when its owner is removed, disabled, or loses the role.
func (a *Authority) CreateToken(ctx context.Context, name string, role Role, ttl time.Duration) (token string, t record.Token, err error) {
	c := CallerFrom(ctx)
	if err := validName("token name", name); err != nil {
		return "", t, err
	}
	if role == Nobody || role > c.Role {
		return "", t, wire.Denied("%w: your role is %s, a token of yours cannot have role %s", ErrForbidden, c.Role, role)
	}
	if ttl == 0 {
		ttl = DefaultTokenTTL
	}
	if ttl < time.Minute || ttl > MaxTokenTTL {
		return "", t, wire.Invalid("a token lives 1 minute to 366 days, not %v", ttl)
	}
	owner := c.User
	if owner == "" {
		owner = c.Name
	}
	if _, _, err := load[record.User](ctx, a.store, userKey(owner)); err != nil {
		return "", t, wire.Precondition("a token needs an owner, and %q is no user: %w", owner, err)
	}
	id, secret := newSecret()
	at := now()
	t = record.Token{ID: id, Name: name, Role: role.String(), Owner: owner, Secret: hashSecret(secret), CreatedAt: at, ExpiresAt: at.Add(ttl)}
	op, err := put(tokenKey(id), t, 0)
	if err != nil {
		return "", t, err
	}
	if _, err := a.Commit(ctx, "token.create", "token/"+id, "", nil, t, op); err != nil {
		return "", t, err
	}
	return bearer{prefixAPI, id, secret}.String(), t, nil
}

// ListTokens returns the caller's tokens, or everyone's for an admin. Hashes are left out.
func (a *Authority) ListTokens(ctx context.Context) ([]record.Token, error) {
	c := CallerFrom(ctx)
	all, err := listForms[record.Token](ctx, a.store, record.KindToken)
	if err != nil {
		return nil, err
	}
	var out []record.Token
	for _, t := range all {
		if c.Role >= Admin || t.Owner == c.User {
			t.Secret = ""
			out = append(out, t)
		}
	}
	return out, nil
}

// RevokeToken ends a token: one's own, or anyone's for ops and admin.
func (a *Authority) RevokeToken(ctx context.Context, id string) error {
	c := CallerFrom(ctx)
	missing := wire.NotFound("there is no token %.64q", id)
	if (record.Key{Kind: record.KindToken, ID: id}).Valid() != nil {
		return missing
	}
	t, _, err := load[record.Token](ctx, a.store, tokenKey(id))
	if errors.Is(err, record.ErrNotFound) || err == nil && c.Role < Ops && t.Owner != c.User {
		return missing
	}
	if err != nil {
		return err
	}
	// Whatever was written to it since: a token's last use must not save it.
	_, err = a.Commit(ctx, "token.revoke", "token/"+id, "", t, nil, record.Drop(tokenKey(id), record.Any))
	return err
}

// byToken says who an API token stands for.
func (a *Authority) byToken(ctx context.Context, b bearer, c Caller) (Caller, error) {
	t, rev, err := load[record.Token](ctx, a.cache, tokenKey(b.id))
	if err != nil {
		return c, err
	}
	at := now()
	if !secretFits(t.Secret, b.secret) || !t.ExpiresAt.IsZero() && at.After(t.ExpiresAt) {
		return c, ErrBadToken
	}
	role, err := ParseRole(t.Role)
	if err != nil {
		return c, ErrBadToken
	}
	_, most, err := a.activeUser(ctx, t.Owner)
	if err != nil {
		return c, err
	}
	if at.Sub(t.LastUsedAt) > lastUsedEvery {
		t.LastUsedAt = at
		a.touchLater(touch{key: tokenKey(t.ID), rev: rev, form: t})
	}
	c.Name, c.User, c.Role, c.Token = t.Owner+"/"+t.Name, t.Owner, min(role, most), t.ID
	return c, nil
}
