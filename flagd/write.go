package flagd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

// What a version of a flag can be.
const (
	whatPut     = "put"
	whatTurn    = "turn"
	whatKill    = "kill"
	whatRestore = "restore"
	whatDelete  = "delete"
)

// writeTries bounds how often a write that names no version starts again after a conflict.
const writeTries = 20

// stored is a flag as the store has it; rev 0 means there is none.
type stored struct {
	form record.Flag
	def  feature.Flag
	rev  int64
}

// look reads a flag that may not exist.
func (a *flagAPI) look(ctx context.Context, key string) (stored, error) {
	form, rev, err := record.Get[record.Flag](ctx, a.s.cfg.Store, record.FlagKey(key))
	switch {
	case errors.Is(err, record.ErrNotFound):
		return stored{}, nil
	case errors.Is(err, record.ErrUnavailable), ctx.Err() != nil:
		return stored{}, err
	case err != nil:
		return stored{}, wire.Precondition("the stored flag cannot be read by this program, only killed: %w", err)
	}
	return stored{form, form.Feature(), rev}, nil
}

// nextVersion is the version that the next write of a flag gets. It goes on where a deleted flag ended.
func (a *flagAPI) nextVersion(ctx context.Context, key string, cur stored) (uint64, error) {
	if cur.rev != 0 {
		return cur.def.Version + 1, nil
	}
	newest, err := a.versions(ctx, key, 1)
	if err != nil || len(newest) == 0 {
		return 1, err
	}
	return newest[0].Form.Flag.Version + 1, nil
}

// flagOps are the ops that write one version of a flag, and its history.
func flagOps(caller, what, reason string, f feature.Flag, ifRev int64) (record.Flag, []record.Op, error) {
	at := time.Now().UTC().Truncate(time.Microsecond)
	form := record.Flag{FlagDef: record.NewFlagDef(f), UpdatedAt: at, UpdatedBy: caller}
	put := record.Drop(record.FlagKey(f.Key), ifRev)
	var err error
	if what != whatDelete {
		if put, err = record.PutForm(record.FlagKey(f.Key), form, ifRev); err != nil {
			return form, nil, err
		}
	}
	version := record.FlagVersion{Flag: form.FlagDef, What: what, By: caller, Reason: wire.Text(reason, wire.MaxText), At: at}
	history, err := record.PutForm(record.FlagVersionKey(f.Key, f.Version), version, 0)
	return form, []record.Op{put, history}, err
}

// commit writes one version with history and audit, waits until this server serves it, and returns it.
func (a *flagAPI) commit(ctx context.Context, what, reason string, cur stored, f feature.Flag, guards ...record.Op) (heldFlag, error) {
	form, ops, err := flagOps(identity.CallerFrom(ctx).Name, what, reason, f, cur.rev)
	if err != nil {
		return heldFlag{}, err
	}
	var before, after any
	if cur.rev != 0 {
		before = cur.def
	}
	if what != whatDelete {
		after = f
	}
	rev, err := a.s.cfg.Authority.Commit(ctx, "flag."+what, "flag/"+f.Key, reason, before, after, append(ops, guards...)...)
	if err != nil {
		return heldFlag{}, err
	}
	a.s.view.reach(ctx, rev, a.s.cfg.pace.catchUp)
	return heldFlag{f, rev, form.UpdatedAt, form.UpdatedBy}, nil
}

// conflict tells a writer what the store has that it had not seen.
func (a *flagAPI) conflict(cur stored, sent feature.Flag) error {
	text := fmt.Sprintf("flag %q is at version %d, you changed version %d: look at the difference and repeat", sent.Key, cur.def.Version, sent.Version)
	if cur.rev == 0 {
		text = fmt.Sprintf("flag %q does not exist (any more), you changed version %d: create it with version 0", sent.Key, sent.Version)
	}
	err := connect.NewError(connect.CodeAborted, errors.New(text))
	detail := &murmurv1.FlagConflict{}
	if cur.rev != 0 {
		detail.Current = a.present(heldFlag{cur.def, cur.rev, cur.form.UpdatedAt, cur.form.UpdatedBy})
		detail.Changes = wire.FlagChanges(feature.Diff(sent, cur.def))
	}
	if d, detailErr := connect.NewErrorDetail(detail); detailErr == nil {
		err.AddDetail(d)
	}
	return err
}

// orConflict turns a lost race into what the winner wrote.
func (a *flagAPI) orConflict(ctx context.Context, err error, sent feature.Flag) error {
	if !errors.Is(err, record.ErrConflict) {
		return err
	}
	cur, lookErr := a.look(ctx, sent.Key)
	if lookErr != nil || cur.def.Version == sent.Version {
		return err // a flag or segment that this one depends on was changed meanwhile
	}
	return a.conflict(cur, sent)
}

// PutFlag creates or replaces a flag.
func (a *flagAPI) PutFlag(ctx context.Context, req *connect.Request[murmurv1.PutFlagRequest]) (*connect.Response[murmurv1.PutFlagResponse], error) {
	f, err := wire.ToFlag(req.Msg.Flag)
	if err != nil {
		return nil, err
	}
	if err := validKey(f.Key); err != nil {
		return nil, err
	}
	cur, err := a.look(ctx, f.Key)
	if err != nil {
		return nil, err
	}
	held, changes, err := a.replace(ctx, cur, f, req.Msg.Reason, req.Msg.DryRun)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.PutFlagResponse{Flag: a.present(held), Changes: wire.FlagChanges(changes)}), nil
}

// replace writes f over what is stored, if f.Version is the version stored. A kill stays as it is.
func (a *flagAPI) replace(ctx context.Context, cur stored, f feature.Flag, reason string, dry bool) (heldFlag, []feature.FieldChange, error) {
	sent := f
	if f.Version != cur.def.Version {
		return heldFlag{}, nil, a.conflict(cur, sent)
	}
	f.Killed = cur.def.Killed
	f.HashVersion = cmp.Or(f.HashVersion, cur.def.HashVersion, dial.HashVersion)
	if err := f.Validate(); err != nil {
		return heldFlag{}, nil, wire.Invalid("flag %q is not valid: %w", f.Key, err)
	}
	guards, err := a.checkOthers(ctx, &f)
	if err != nil {
		return heldFlag{}, nil, err
	}
	changes := feature.Diff(cur.def, f)
	if dry {
		return heldFlag{def: f}, changes, nil
	}
	if f.Version, err = a.nextVersion(ctx, f.Key, cur); err != nil {
		return heldFlag{}, nil, err
	}
	held, err := a.commit(ctx, whatPut, reason, cur, f, guards...)
	return held, changes, a.orConflict(ctx, err, sent)
}

// TurnFlag sets the dial. Without a version it starts again when somebody else was first.
func (a *flagAPI) TurnFlag(ctx context.Context, req *connect.Request[murmurv1.TurnFlagRequest]) (*connect.Response[murmurv1.TurnFlagResponse], error) {
	m := req.Msg
	d, err := wire.ToDial("dial", m.Dial)
	if err != nil {
		return nil, err
	}
	for range writeTries {
		var cur stored
		if cur, err = a.existing(ctx, m.Key); err != nil {
			return nil, err
		}
		f := cur.def
		sent := f
		sent.Dial, sent.Version = d, m.Version
		if m.Version != 0 && m.Version != f.Version {
			return nil, a.conflict(cur, sent)
		}
		if s := f.Schedule; s != nil && len(s.Stages) > 0 && !time.Now().Before(s.Stages[0].At) {
			return nil, wire.Precondition("flag %q follows a schedule that has begun: take the schedule out first, or kill the flag", m.Key)
		}
		f.Dial, f.Version = d, f.Version+1
		var held heldFlag
		if held, err = a.commit(ctx, whatTurn, m.Reason, cur, f); err == nil {
			return connect.NewResponse(&murmurv1.TurnFlagResponse{Flag: a.present(held), Before: int32(cur.def.Dial)}), nil
		}
		if m.Version != 0 || !errors.Is(err, record.ErrConflict) {
			return nil, a.orConflict(ctx, err, sent)
		}
	}
	return nil, err
}

// existing reads a flag that must exist.
func (a *flagAPI) existing(ctx context.Context, key string) (stored, error) {
	if err := validKey(key); err != nil {
		return stored{}, err
	}
	cur, err := a.look(ctx, key)
	if err == nil && cur.rev == 0 {
		err = wire.NotFound("there is no flag %q", key)
	}
	return cur, err
}

// DeleteFlag deletes a flag that no other needs. Its history stays.
func (a *flagAPI) DeleteFlag(ctx context.Context, req *connect.Request[murmurv1.DeleteFlagRequest]) (*connect.Response[murmurv1.DeleteFlagResponse], error) {
	cur, err := a.existing(ctx, req.Msg.Key)
	if err != nil {
		return nil, err
	}
	sent := feature.Flag{Key: req.Msg.Key, Version: req.Msg.Version}
	if req.Msg.Version != cur.def.Version {
		return nil, a.conflict(cur, sent)
	}
	others, err := a.others(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range others.flags {
		if slices.ContainsFunc(f.def.Prerequisites, func(p feature.Prerequisite) bool { return p.Flag == req.Msg.Key }) {
			return nil, wire.Precondition("flag %q is a prerequisite of %q: change that one first", req.Msg.Key, f.def.Key)
		}
	}
	f := cur.def
	f.Version++
	if _, err = a.commit(ctx, whatDelete, req.Msg.Reason, cur, f); err != nil {
		return nil, a.orConflict(ctx, err, sent)
	}
	return connect.NewResponse(&murmurv1.DeleteFlagResponse{}), nil
}

// RestoreFlagVersion writes an old version as the newest one. It is checked like any other write, and a kill stays.
func (a *flagAPI) RestoreFlagVersion(ctx context.Context, req *connect.Request[murmurv1.RestoreFlagVersionRequest]) (*connect.Response[murmurv1.RestoreFlagVersionResponse], error) {
	m := req.Msg
	if err := validKey(m.Key); err != nil {
		return nil, err
	}
	old, _, err := record.Get[record.FlagVersion](ctx, a.s.cfg.Store, record.FlagVersionKey(m.Key, m.Restore))
	if errors.Is(err, record.ErrNotFound) {
		return nil, wire.NotFound("flag %q has no version %d", m.Key, m.Restore)
	}
	if err != nil {
		return nil, err
	}
	cur, err := a.look(ctx, m.Key)
	if err != nil {
		return nil, err
	}
	f := old.Flag.Feature()
	f.Version = m.Version
	reason := cmp.Or(m.Reason, fmt.Sprintf("version %d restored", m.Restore))
	held, _, err := a.replace(ctx, cur, f, reason, false)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&murmurv1.RestoreFlagVersionResponse{Flag: a.present(held)}), nil
}
