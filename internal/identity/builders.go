package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

// farFuture is later than anything.
var farFuture = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

func builderKey(id string) record.Key { return record.Key{Kind: record.KindBuilder, ID: id} }

// onTrust puts a trust bundle from the store in force.
func (a *Authority) onTrust(envelope []byte) {
	if _, err := a.trust.Update(envelope); err != nil && !errors.Is(err, ErrOlder) {
		a.log.Error("the stored trust bundle is not acceptable; the one in force stays", "err", err)
	}
}

// initTrust loads the bundle, or stores an empty one, and the revocations.
func (a *Authority) initTrust(ctx context.Context) error {
	certs, rev, err := a.store.List(ctx, record.KindCert, "")
	if err != nil {
		return err
	}
	b := record.Batch{Rev: rev}
	for _, item := range certs {
		b.Changes = append(b.Changes, record.Change{Item: item})
	}
	a.cache.apply(b)
	envelope, err := a.ca.SignBundle(Bundle{Version: 1})
	if err != nil {
		return err
	}
	op, err := put(record.TrustKey, record.Trust{Version: 1, Envelope: envelope}, 0)
	if err != nil {
		return err
	}
	if _, err := a.store.Commit(ctx, op); err != nil && !errors.Is(err, record.ErrConflict) {
		return err
	}
	_, _, err = a.loadTrust(ctx)
	return err
}

// loadTrust reads the stored bundle, verifies it and puts it in force.
func (a *Authority) loadTrust(ctx context.Context) (Bundle, int64, error) {
	t, rev, err := load[record.Trust](ctx, a.store, record.TrustKey)
	if err != nil {
		return Bundle{}, 0, err
	}
	b, err := OpenBundle(a.ca.Certificate(), t.Envelope)
	if err != nil {
		return Bundle{}, 0, err
	}
	a.onTrust(t.Envelope)
	return b, rev, nil
}

// AddBuilder trusts a key, or changes what a trusted key may sign. The key id may be left out. A key that was
// revoked stays so.
func (a *Authority) AddBuilder(ctx context.Context, b record.Builder) (record.Builder, error) {
	if b.KeyID == "" && len(b.Public) > 0 {
		b.KeyID = KeyID(b.Public)
	}
	b.Revoked = false
	if err := validBuilder(b); err != nil {
		return b, wire.Invalid("builder %.64q: %w", b.Name, err)
	}
	return a.putBuilder(ctx, "builder.add", "", b.KeyID, func(old record.Builder, exists bool) (record.Builder, error) {
		if exists && old.Revoked {
			return old, wire.Precondition("key %s was revoked: make a new key", b.KeyID)
		}
		return b, nil
	})
}

// RevokeBuilder ends the trust in a key: no host installs anything more that it signed, whenever that was.
func (a *Authority) RevokeBuilder(ctx context.Context, keyID, reason string) (record.Builder, error) {
	if strings.TrimSpace(reason) == "" {
		return record.Builder{}, wire.Invalid("a reason is needed to revoke a builder's key")
	}
	if builderKey(keyID).Valid() != nil || !isHex(keyID) {
		return record.Builder{}, wire.NotFound("there is no builder key %.64q", keyID)
	}
	return a.putBuilder(ctx, "builder.revoke", reason, keyID, func(old record.Builder, exists bool) (record.Builder, error) {
		if !exists {
			return old, wire.NotFound("there is no builder key %s", keyID)
		}
		old.Revoked = true
		return old, nil
	})
}

// putBuilder changes one key's record and the signed bundle in one transaction.
func (a *Authority) putBuilder(ctx context.Context, what, why, keyID string, change func(old record.Builder, exists bool) (record.Builder, error)) (record.Builder, error) {
	old, rev, err := load[record.Builder](ctx, a.store, builderKey(keyID))
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return old, err
	}
	exists := err == nil
	next, err := change(old, exists)
	if err != nil {
		return next, err
	}
	bundle, trustRev, err := a.loadTrust(ctx)
	if err != nil {
		return next, fmt.Errorf("change the trust bundle: %w", err)
	}
	bundle.Version++
	bundle.Keys = withKey(bundle.Keys, next)
	if len(bundle.Keys) > MaxBundleKeys {
		return next, wire.Precondition("the fleet trusts %d keys already, which is the most", MaxBundleKeys)
	}
	envelope, err := a.ca.SignBundle(bundle)
	if err != nil {
		return next, err
	}
	builderOp, err := put(builderKey(keyID), next, rev)
	if err != nil {
		return next, err
	}
	trustOp, err := put(record.TrustKey, record.Trust{Version: bundle.Version, Envelope: envelope}, trustRev)
	if err != nil {
		return next, err
	}
	if _, err := a.Commit(ctx, what, "builder/"+keyID, why, beforeOf(old, exists), next, builderOp, trustOp); err != nil {
		return next, err
	}
	a.onTrust(envelope)
	return next, nil
}

// withKey replaces the key's entry or adds it.
func withKey(keys []record.Builder, k record.Builder) []record.Builder {
	for i := range keys {
		if keys[i].KeyID == k.KeyID {
			keys[i] = k
			return keys
		}
	}
	return append(keys, k)
}

// ListBuilders returns all keys, by key id, revoked ones too.
func (a *Authority) ListBuilders(ctx context.Context) ([]record.Builder, error) {
	return listForms[record.Builder](ctx, a.store, record.KindBuilder)
}
