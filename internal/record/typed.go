package record

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// modifyTries bounds the read-change-commit loop of [Modify]. With full jitter up to 100 ms between tries it
// outlasts any contention a control plane can make; more of it is a bug worth hearing about.
const modifyTries = 20

// ErrUnchanged is what the function given to [Modify] or [Upsert] returns to leave the record as it is.
var ErrUnchanged = errors.New("record left unchanged")

// Entry is one record of a typed list.
type Entry[T Form] struct {
	Key  Key
	Rev  int64
	Form T
}

// Get reads and decodes one record. Its error wraps [ErrNotFound] when there is none.
func Get[T Form](ctx context.Context, s Store, k Key) (T, int64, error) {
	var none T
	item, err := s.Get(ctx, k)
	if err != nil {
		return none, 0, err
	}
	form, err := Decode[T](item.Value)
	if err != nil {
		return none, 0, fmt.Errorf("record %s: %w", k, err)
	}
	return form, item.Rev, nil
}

// List reads and decodes all records of a kind whose ID starts with prefix, in order of ID, at one revision.
// One record that does not decode fails the whole list: half a list would be mistaken for the whole.
func List[T Form](ctx context.Context, s Store, kind Kind, prefix string) ([]Entry[T], int64, error) {
	items, rev, err := s.List(ctx, kind, prefix)
	if err != nil {
		return nil, 0, err
	}
	entries, err := DecodeItems[T](items)
	return entries, rev, err
}

// DecodeItems decodes what [Store.List] or [Store.Page] returned.
func DecodeItems[T Form](items []Item) ([]Entry[T], error) {
	entries := make([]Entry[T], len(items))
	for i, item := range items {
		form, err := Decode[T](item.Value)
		if err != nil {
			return nil, fmt.Errorf("record %s: %w", item.Key, err)
		}
		entries[i] = Entry[T]{Key: item.Key, Rev: item.Rev, Form: form}
	}
	return entries, nil
}

// PutForm makes the Op that writes form at k if it is at ifRev (0: if it does not exist; [Any]: always).
func PutForm[T Form](k Key, form T, ifRev int64) (Op, error) {
	value, err := Encode(form)
	if err != nil {
		return Op{}, fmt.Errorf("record %s: %w", k, err)
	}
	return Put(k, value, ifRev), nil
}

// Create writes a record that must not exist yet; its error wraps [ErrConflict] when it does.
func Create[T Form](ctx context.Context, s Store, k Key, form T) (rev int64, err error) {
	return Replace(ctx, s, k, form, 0)
}

// Replace writes a record that must be at ifRev, as [Op] defines it.
func Replace[T Form](ctx context.Context, s Store, k Key, form T, ifRev int64) (rev int64, err error) {
	op, err := PutForm(k, form, ifRev)
	if err != nil {
		return 0, err
	}
	return s.Commit(ctx, op)
}

// Modify changes an existing record: it reads it, lets fn change it and commits it if nobody else did
// meanwhile; otherwise it starts again, with jitter, at most 20 times, and then returns [ErrConflict]. So fn may run
// several times and must only change what it is given. An error of fn ends Modify and is returned as it is,
// but [ErrUnchanged] ends it well without a write. It returns the record's revision.
func Modify[T Form](ctx context.Context, s Store, k Key, fn func(*T) error) (rev int64, err error) {
	return modify(ctx, s, k, false, fn)
}

// Upsert is [Modify] for a record that may not exist yet: fn then starts from the zero form.
func Upsert[T Form](ctx context.Context, s Store, k Key, fn func(*T) error) (rev int64, err error) {
	return modify(ctx, s, k, true, fn)
}

func modify[T Form](ctx context.Context, s Store, k Key, create bool, fn func(*T) error) (int64, error) {
	var err error
	for try := range modifyTries {
		if try > 0 {
			if err := pause(ctx, try); err != nil {
				return 0, err
			}
		}
		var rev int64
		rev, err = modifyOnce(ctx, s, k, create, fn)
		if !errors.Is(err, ErrConflict) {
			return rev, err
		}
	}
	return 0, fmt.Errorf("%d tries: %w", modifyTries, err)
}

func modifyOnce[T Form](ctx context.Context, s Store, k Key, create bool, fn func(*T) error) (int64, error) {
	form, rev, err := Get[T](ctx, s, k)
	if err != nil && (!create || !errors.Is(err, ErrNotFound)) {
		return 0, err
	}
	switch err := fn(&form); {
	case errors.Is(err, ErrUnchanged):
		return rev, nil
	case err != nil:
		return 0, err
	}
	return Replace(ctx, s, k, form, rev)
}

// pause waits a random time of at most 2^try ms, capped at 100 ms.
func pause(ctx context.Context, try int) error {
	most := min(time.Millisecond<<min(try, 7), 100*time.Millisecond)
	timer := time.NewTimer(rand.N(most))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
