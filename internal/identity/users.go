package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

func userKey(name string) record.Key { return record.Key{Kind: record.KindUser, ID: name} }

// validName accepts names of users and tokens: 1 to 64 letters, digits, '.', '-', '_' and '@'.
func validName(what, name string) error {
	bad := func(r rune) bool { return r != '@' && notIDRune(r) }
	if name == "" || len(name) > 64 || strings.Trim(name, ".") == "" || strings.IndexFunc(name, bad) >= 0 {
		return wire.Invalid("%s %.80q: 1 to 64 letters, digits, '.', '-', '_' or '@' are needed", what, name)
	}
	return nil
}

// Bootstrap makes the first user, an admin, when there is no user at all. Made reports whether it did.
func (a *Authority) Bootstrap(ctx context.Context, name, password string) (made bool, err error) {
	users, _, err := a.store.List(ctx, record.KindUser, "")
	if err != nil {
		return false, fmt.Errorf("make the first admin: %w", err)
	}
	if len(users) > 0 {
		return false, nil
	}
	ctx = WithCaller(ctx, Caller{Name: System, Role: Admin})
	_, err = a.PutUser(ctx, record.User{Name: name, Role: Admin.String()}, password)
	if errors.Is(err, record.ErrConflict) {
		return false, nil // another server was faster
	}
	return err == nil, err
}

// PutUser makes a user or changes one; password "" keeps the present one. Admins may do that with everyone, others
// may change their own password and e-mail address. A changed password, role or Disabled ends the user's log-ins.
// The last admin who can log in cannot be taken away.
func (a *Authority) PutUser(ctx context.Context, want record.User, password string) (record.User, error) {
	if err := validName("user name", want.Name); err != nil {
		return record.User{}, err
	}
	if _, err := ParseRole(want.Role); err != nil {
		return record.User{}, err
	}
	if len(want.Email) > 254 || strings.ContainsAny(want.Email, "\r\n\x00 ") {
		return record.User{}, wire.Invalid("the e-mail address is not acceptable")
	}
	old, rev, err := load[record.User](ctx, a.store, userKey(want.Name))
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return record.User{}, err
	}
	exists := err == nil
	if err := mayPutUser(CallerFrom(ctx), old, want, exists); err != nil {
		return record.User{}, err
	}
	next, err := a.nextUser(ctx, old, want, password, exists)
	if err != nil {
		return record.User{}, err
	}
	ops, err := a.adminGuard(ctx, old, next)
	if err != nil {
		return record.User{}, err
	}
	op, err := put(userKey(next.Name), next, rev)
	if err != nil {
		return record.User{}, err
	}
	if _, err := a.Commit(ctx, "user.put", "user/"+next.Name, "", beforeOf(old, exists), next, append(ops, op)...); err != nil {
		return record.User{}, err
	}
	return next, nil
}

// beforeOf is the audit record's view of what was there before, if anything was.
func beforeOf[T any](old T, exists bool) any {
	if !exists {
		return nil
	}
	return old
}

func mayPutUser(c Caller, old, want record.User, exists bool) error {
	if c.Role >= Admin {
		return nil
	}
	if c.Token != "" || c.User != want.Name || !exists || old.Role != want.Role || old.Disabled != want.Disabled {
		return wire.Denied("%w: only an admin may do that; you may change your own password and address", ErrForbidden)
	}
	return nil
}

func (a *Authority) nextUser(ctx context.Context, old, want record.User, password string, exists bool) (record.User, error) {
	next := record.User{Name: want.Name, Role: want.Role, Email: want.Email, Disabled: want.Disabled,
		Password: old.Password, CreatedAt: old.CreatedAt, Epoch: old.Epoch}
	if !exists {
		next.CreatedAt = now()
		// A user made anew under an old name does not inherit that user's sessions.
		next.Epoch = next.CreatedAt.UnixMicro()
	}
	if password != "" {
		hash, err := a.hasher.hash(ctx, password)
		if err != nil {
			return next, err
		}
		next.Password = hash
	}
	if exists && (password != "" || next.Role != old.Role || next.Disabled != old.Disabled) {
		next.Epoch++
	}
	return next, nil
}

// adminGuard refuses to take the last admin away. The ops it returns make sure that the other admin it counted
// on is still one when the change commits.
func (a *Authority) adminGuard(ctx context.Context, old, next record.User) ([]record.Op, error) {
	if !isAdmin(old) || isAdmin(next) {
		return nil, nil
	}
	items, _, err := a.store.List(ctx, record.KindUser, "")
	if err != nil {
		return nil, err
	}
	for _, item := range items {
		u, err := record.Decode[record.User](item.Value)
		if err != nil || u.Name == old.Name || !isAdmin(u) {
			continue
		}
		return []record.Op{record.Check(item.Key, item.Rev)}, nil
	}
	return nil, wire.Precondition("%s is the last admin who can log in: make another one first", old.Name)
}

func isAdmin(u record.User) bool {
	return u.Role == Admin.String() && !u.Disabled && u.Password != ""
}

// ListUsers returns all users by name. Passwords are left out.
func (a *Authority) ListUsers(ctx context.Context) ([]record.User, error) {
	users, err := listForms[record.User](ctx, a.store, record.KindUser)
	for i := range users {
		users[i].Password = ""
	}
	return users, err
}

// listForms reads and decodes all records of a kind.
func listForms[T record.Form](ctx context.Context, store record.Store, kind record.Kind) ([]T, error) {
	items, _, err := store.List(ctx, kind, "")
	if err != nil {
		return nil, err
	}
	out := make([]T, 0, len(items))
	for _, item := range items {
		form, err := record.Decode[T](item.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", item.Key, err)
		}
		out = append(out, form)
	}
	return out, nil
}

// RemoveUser removes a user; the user's log-ins and tokens end with it.
func (a *Authority) RemoveUser(ctx context.Context, name string) error {
	if err := validName("user name", name); err != nil {
		return err
	}
	old, rev, err := load[record.User](ctx, a.store, userKey(name))
	if errors.Is(err, record.ErrNotFound) {
		return wire.NotFound("there is no user %q", name)
	}
	if err != nil {
		return err
	}
	ops, err := a.adminGuard(ctx, old, record.User{})
	if err != nil {
		return err
	}
	_, err = a.Commit(ctx, "user.remove", "user/"+name, "", old, nil, append(ops, record.Drop(userKey(name), rev))...)
	return err
}

// GetUser returns a user without the password's hash.
func (a *Authority) GetUser(ctx context.Context, name string) (record.User, error) {
	if err := validName("user name", name); err != nil {
		return record.User{}, err
	}
	u, _, err := load[record.User](ctx, a.cache, userKey(name))
	u.Password = ""
	return u, err
}
