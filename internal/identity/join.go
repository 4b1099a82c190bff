package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/google/uuid"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

// Life of a join token, and how many labels a host can have.
const (
	DefaultJoinTTL = time.Hour
	MaxJoinTTL     = 7 * 24 * time.Hour
	maxLabels      = 64
	maxLabel       = 128 // bytes of a label's key and of its value
)

func joinKey(id string) record.Key { return record.Key{Kind: record.KindJoin, ID: id} }

func hostKey(id string) record.Key { return record.Key{Kind: record.KindHost, ID: id} }

// CreateJoinToken makes a token with which one host can join. TTL 0 means 1 h, most 7 days. The labels are given to
// the host and win over its own; hostName, when not "", is the only name it may join under. The token is
// shown once and not stored.
func (a *Authority) CreateJoinToken(ctx context.Context, ttl time.Duration, labels map[string]string, hostName string) (token string, t record.JoinToken, err error) {
	if ttl == 0 {
		ttl = DefaultJoinTTL
	}
	if ttl < time.Minute || ttl > MaxJoinTTL {
		return "", t, wire.Invalid("a join token lives 1 minute to 7 days, not %v", ttl)
	}
	if err := validLabels(labels); err != nil {
		return "", t, err
	}
	if hostName != "" {
		if err := validHostName(hostName); err != nil {
			return "", t, err
		}
	}
	id, secret := newSecret()
	at := now()
	t = record.JoinToken{ID: id, Secret: hashSecret(secret), HostName: hostName, Labels: labels, CreatedBy: CallerFrom(ctx).Name, CreatedAt: at, ExpiresAt: at.Add(ttl)}
	op, err := put(joinKey(id), t, 0)
	if err != nil {
		return "", t, err
	}
	if _, err := a.Commit(ctx, "join-token.create", "join/"+id, "", nil, t, op); err != nil {
		return "", t, err
	}
	return JoinToken{ID: id, Secret: secret, CA: a.ca.Fingerprint()}.String(), t, nil
}

func validLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return wire.Invalid("%d labels, most %d", len(labels), maxLabels)
	}
	for k, v := range labels {
		if k == "" || len(k) > maxLabel || len(v) > maxLabel || !printable(k) || !printable(v) {
			return wire.Invalid("label %.140q=%.140q: keys have 1 to %d and values at most %d printable bytes without spaces", k, v, maxLabel, maxLabel)
		}
	}
	return nil
}

func validHostName(name string) error {
	if name == "" || len(name) > 253 || !printable(name) {
		return wire.Invalid("host name %.260q: 1 to 253 printable bytes without spaces are needed", name)
	}
	return nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Joined is what a host gets for its token.
type Joined struct {
	HostID      string
	Certificate []byte // DER
	CA          []byte // DER
	Trust       []byte // envelope of the trust bundle
	Seeders     []string
}

// Join trades a join token and a certificate request for a host's identity. Consuming the token and making the host
// is one transaction: of two hosts with one token, one joins and the other gets [ErrTokenUsed] and an audit
// record. The same key may repeat its request while the token lives, for an answer that got lost.
//
// The host takes over the record of a declared host of its name; a name that belongs to a host which
// has joined is refused.
func (a *Authority) Join(ctx context.Context, token, name string, labels map[string]string, csr []byte) (Joined, error) {
	origin, _ := ctx.Value(originKey{}).(origin)
	if a.joins.spent(origin.from) {
		return Joined{}, ErrTooManyTries
	}
	pub, err := csrKey(csr)
	if err != nil {
		return Joined{}, err
	}
	if err := validHostName(name); err != nil {
		return Joined{}, err
	}
	if err := validLabels(labels); err != nil {
		return Joined{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return Joined{}, fmt.Errorf("join: %w", err)
	}
	sum := sha256.Sum256(spki)
	keyHash := hex.EncodeToString(sum[:])
	ctx = WithCaller(ctx, Caller{Name: "host " + name, From: origin.from})
	t, rev, err := a.checkJoinToken(ctx, token, name, keyHash)
	if err != nil {
		return Joined{}, err
	}
	hostID := t.UsedBy
	if hostID == "" {
		if hostID, err = a.admitHost(ctx, t, rev, name, labels, keyHash); err != nil {
			return Joined{}, err
		}
	}
	cert, err := a.ca.IssueHost(csr, hostID)
	if err != nil {
		return Joined{}, err
	}
	return Joined{HostID: hostID, Certificate: cert, CA: a.ca.Certificate().Raw, Trust: a.trust.Envelope(), Seeders: a.seeders}, nil
}

// checkJoinToken returns the stored token if it may be used now by the holder of this key.
func (a *Authority) checkJoinToken(ctx context.Context, token, name, keyHash string) (record.JoinToken, int64, error) {
	parsed, err := ParseJoinToken(token)
	if err != nil {
		return record.JoinToken{}, 0, err
	}
	t, rev, err := load[record.JoinToken](ctx, a.store, joinKey(parsed.ID))
	if errors.Is(err, record.ErrNotFound) || err == nil && !secretFits(t.Secret, parsed.Secret) {
		a.joins.take(CallerFrom(ctx).From)
		a.log.Warn("join refused: unknown token", "from", CallerFrom(ctx).From)
		return t, 0, ErrTokenUnknown
	}
	if err != nil {
		return t, 0, err
	}
	refusal := error(nil)
	switch {
	case now().After(t.ExpiresAt):
		refusal = ErrTokenExpired
	case t.UsedBy != "" && t.UsedKey != keyHash:
		refusal = ErrTokenUsed
	case t.HostName != "" && t.HostName != name:
		refusal = wire.Denied("the join token is for host %q, this one calls itself %q", t.HostName, name)
	}
	if refusal != nil {
		return t, 0, a.refuseJoin(ctx, t, refusal)
	}
	return t, rev, nil
}

// refuseJoin writes a refusal down, since the token itself was right and may have been stolen.
func (a *Authority) refuseJoin(ctx context.Context, t record.JoinToken, refusal error) error {
	a.joins.take(CallerFrom(ctx).From)
	_, err := a.Commit(ctx, "join.refused", "join/"+t.ID, refusal.Error(), nil, nil)
	if err != nil {
		a.log.Error("a refused join was not written down", "token", t.ID, "err", err)
	}
	return refusal
}

// admitHost makes the host's record and consumes the token, in one transaction.
func (a *Authority) admitHost(ctx context.Context, t record.JoinToken, rev int64, name string, labels map[string]string, keyHash string) (string, error) {
	host, hostRev, err := a.hostNamed(ctx, name)
	if err != nil {
		return "", err
	}
	before := beforeOf(host, hostRev != 0)
	merged := maps.Clone(labels)
	if merged == nil {
		merged = map[string]string{}
	}
	maps.Copy(merged, t.Labels)
	maps.Copy(merged, host.Labels)
	host.Name, host.Labels, host.Declared, host.JoinedAt, host.AnnounceKey = name, merged, false, now(), rand.Text()
	t.UsedBy, t.UsedKey, t.UsedAt = host.ID, keyHash, now()
	hostOp, err := put(hostKey(host.ID), host, hostRev)
	if err != nil {
		return "", err
	}
	tokenOp, err := put(joinKey(t.ID), t, rev)
	if err != nil {
		return "", err
	}
	after := host
	after.AnnounceKey = ""
	_, err = a.Commit(ctx, "host.join", "host/"+host.ID, "", before, after, hostOp, tokenOp)
	if !errors.Is(err, record.ErrConflict) {
		return host.ID, err
	}
	if again, _, loadErr := load[record.JoinToken](ctx, a.store, joinKey(t.ID)); loadErr == nil && again.UsedBy != "" {
		return "", a.refuseJoin(ctx, again, ErrTokenUsed)
	}
	return "", err
}

// hostNamed is the record that a host of this name joins into: a declared host's, or a new one (revision 0).
func (a *Authority) hostNamed(ctx context.Context, name string) (record.Host, int64, error) {
	items, _, err := a.store.List(ctx, record.KindHost, "")
	if err != nil {
		return record.Host{}, 0, err
	}
	for _, item := range items {
		h, err := record.Decode[record.Host](item.Value)
		if err != nil || h.Name != name {
			continue
		}
		if !h.Declared {
			return h, 0, wire.Exists("a host named %q has joined already (id %s): give this one another name, or remove that one first (`murmur host remove %s`)", name, h.ID, name)
		}
		return h, item.Rev, nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return record.Host{}, 0, fmt.Errorf("make a host id: %w", err)
	}
	return record.Host{ID: id.String()}, 0, nil
}

// Renew issues a new certificate to the host that asks with its present one.
func (a *Authority) Renew(ctx context.Context, csr []byte) ([]byte, error) {
	p, ok := PeerFromContext(ctx)
	if !ok || p.Kind != KindHost {
		return nil, wire.Denied("%w: only a host with its certificate may renew it", ErrForbidden)
	}
	if _, err := a.store.Get(ctx, hostKey(p.ID)); err != nil {
		if errors.Is(err, record.ErrNotFound) {
			return nil, wire.Denied("%w: host %s was removed from the fleet", ErrForbidden, p.ID)
		}
		return nil, err
	}
	return a.ca.IssueHost(csr, p.ID)
}

// RevokeOps are the ops that make all certificates void that a peer has now. Whoever removes a host puts them into
// the same commit.
func RevokeOps(p Peer, by, reason string) ([]record.Op, error) {
	if err := p.Valid(); err != nil {
		return nil, wire.Invalid("revoke: %w", err)
	}
	op, err := put(record.RevokedPeer(string(p.Kind), p.ID), record.Revocation{By: by, Reason: reason, At: now()}, record.Any)
	if err != nil {
		return nil, err
	}
	return []record.Op{op}, nil
}

// RevokeCertificate makes one certificate void, by its serial number in hex ([Serial]).
func (a *Authority) RevokeCertificate(ctx context.Context, serial, reason string) error {
	if serial == "" || len(serial) > 64 || !isHex(serial) {
		return wire.Invalid("serial number %.80q: lower-case hex is needed", serial)
	}
	if reason == "" {
		return wire.Invalid("a reason is needed")
	}
	k := record.RevokedSerial(serial)
	op, err := put(k, record.Revocation{By: CallerFrom(ctx).Name, Reason: reason, At: now()}, record.Any)
	if err != nil {
		return err
	}
	_, err = a.Commit(ctx, "certificate.revoke", "cert/"+serial, reason, nil, nil, op)
	return err
}
