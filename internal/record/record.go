package record

import (
	"context"
	"errors"
	"fmt"
)

// Kind is a family of records. A store keeps each kind under a prefix of its own.
type Kind string

// The kinds of record. Adding one needs no migration; renaming one does.
const (
	KindService Kind = "service" // id: service name
	KindRelease Kind = "release" // id: service/release id
	KindBuild   Kind = "build"   // id: build id (a build has no service until murmur.yaml was read)
	KindRollout Kind = "rollout" // id: service/rollout id
	KindHost    Kind = "host"    // id: host id
	KindUser    Kind = "user"    // id: user name
	KindToken   Kind = "token"   // id: token id (API tokens of people and services)
	KindSession Kind = "session" // id: session id (web and CLI log-ins)
	KindJoin    Kind = "join"    // id: join token id
	KindBuilder Kind = "builder" // id: key id
	KindCert    Kind = "cert"    // id: serial; revocations
	KindAudit   Kind = "audit"   // id: zero-padded sequence number
	KindFleet   Kind = "fleet"   // singletons: "stop", "audit-head", "trust", "ca"
	KindFlag    Kind = "flag"    // id: flag key
	KindFlagLog Kind = "flaglog" // id: flag key/zero-padded version
	KindSegment Kind = "segment" // id: segment key
)

// Key names one record. An ID is made of one or more non-empty parts joined by "/"; see [Key.Valid].
type Key struct {
	Kind Kind
	ID   string
}

// String renders "kind/id" for messages; it is not how a store spells the key.
func (k Key) String() string { return string(k.Kind) + "/" + k.ID }

// Item is one stored record. Rev is the store's revision of its last change: it is 1 or more, grows with every
// commit anywhere in the store, and is what compare-and-swap compares. Value belongs to the receiver.
type Item struct {
	Key   Key
	Value []byte
	Rev   int64
}

// Op is one part of a commit.
type Op struct {
	Key Key
	// If is the revision the record must have: 0 means it must not exist, [Any] means no condition.
	If int64
	// Value is what to write. Delete removes the record; with neither (Value nil) the op only checks.
	Value  []byte
	Delete bool
}

// Any as Op.If puts no condition on the record.
const Any int64 = -1

// Put, Drop and Check make the three sorts of Op.
func Put(k Key, v []byte, ifRev int64) Op { return Op{Key: k, Value: v, If: ifRev} }

// Drop removes k if it is at ifRev. Removing what does not exist is no error when ifRev is [Any].
func Drop(k Key, ifRev int64) Op { return Op{Key: k, Delete: true, If: ifRev} }

// Check lets the commit succeed only while k is at ifRev.
func Check(k Key, ifRev int64) Op { return Op{Key: k, If: ifRev} }

// Change is one record that changed. Deleted items have no Value; their Rev is that of the deletion.
type Change struct {
	Item
	Deleted bool
}

// Batch is all changes of one commit, as a watch delivers them: never torn, in order, none twice. A watch
// that lost its place (the store compacted, or the watcher was too slow) delivers Reset with the whole
// present content of the watched kinds as Changes; whatever the receiver held and is not in it is deleted.
type Batch struct {
	Rev     int64
	Reset   bool
	Changes []Change
}

// Store is what etcdstore and memstore both are. It is safe for concurrent use. Every method ends with its
// context. Errors wrap [ErrNotFound], [ErrConflict] or [ErrUnavailable] where those apply.
type Store interface {
	// Get reads one record, linearizably.
	Get(ctx context.Context, k Key) (Item, error)
	// List reads all records of a kind whose ID starts with prefix, in order of ID, at one revision.
	List(ctx context.Context, kind Kind, prefix string) (items []Item, rev int64, err error)
	// Page reads at most limit records of a kind in order of ID, after the ID given (exclusive; "" starts).
	// With reverse it goes from the end backwards, before the ID given.
	Page(ctx context.Context, kind Kind, prefix, after string, limit int, reverse bool) ([]Item, error)
	// Commit applies all ops at one new revision, or none of them and [ErrConflict] naming the first key
	// whose condition did not hold. [CheckOps] says what a commit may hold: at most [MaxOps] ops, no key
	// twice, values of at most [MaxValue] bytes each and [MaxCommit] together, after compression. When it
	// ends with [ErrUnavailable] or a context error the ops may or may not have been applied.
	Commit(ctx context.Context, ops ...Op) (rev int64, err error)
	// Watch calls fn with the present content of the kinds (a Batch with Reset), then with every commit that
	// touches them, until ctx ends or fn returns an error, which it returns. It reconnects by itself.
	Watch(ctx context.Context, kinds []Kind, fn func(Batch) error) error
	// Campaign blocks until this process leads the named election, or ctx ends. Value is published to
	// everyone who asks Leader, for example the address to send reports to.
	Campaign(ctx context.Context, election, value string) (Leadership, error)
	// Leader returns the current leader's value and term; ErrNotFound when there is none.
	Leader(ctx context.Context, election string) (value string, term uint64, err error)
	// Close releases what the store holds; it does not stop an embedded server it did not start.
	Close() error
}

// Leadership is a won election. Term grows with every won election of that name, so it fences: whoever
// obeys orders refuses those of a lower term.
type Leadership interface {
	Term() uint64
	// Lost is closed when leadership ended or can no longer be proved.
	Lost() <-chan struct{}
	// Commit is [Store.Commit] that succeeds only while this leadership is still held (same transaction).
	// When it is not, nothing is applied and the error wraps [ErrNotLeader].
	Commit(ctx context.Context, ops ...Op) (rev int64, err error)
	// Resign gives leadership up so that another is elected at once.
	Resign(ctx context.Context) error
}

// The errors of a store.
var (
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("changed by someone else meanwhile")
	ErrUnavailable = errors.New("the store cannot be reached")
	// ErrNotLeader is what [Leadership.Commit] returns once the leadership is lost. It is no conflict: trying
	// again cannot help.
	ErrNotLeader = errors.New("leadership is lost")
)

// Valid reports whether the key can be stored: a kind of 1 to 32 lower-case letters and hyphens, and an ID
// of at most 512 bytes whose parts are non-empty, printable ASCII and not "." or "..".
func (k Key) Valid() error {
	if err := k.Kind.Valid(); err != nil {
		return err
	}
	if k.ID == "" || len(k.ID) > 512 {
		return fmt.Errorf("record key %q: an id of 1 to 512 bytes is needed", k)
	}
	start := 0
	for i := 0; i <= len(k.ID); i++ {
		if i < len(k.ID) && k.ID[i] != '/' {
			if c := k.ID[i]; c <= ' ' || c > '~' {
				return fmt.Errorf("record key %q: byte %#x is not allowed", k, c)
			}
			continue
		}
		if part := k.ID[start:i]; part == "" || part == "." || part == ".." {
			return fmt.Errorf("record key %q: part %q is not allowed", k, part)
		}
		start = i + 1
	}
	return nil
}

// Valid reports whether the kind can name a family of records: 1 to 32 lower-case letters and hyphens.
func (k Kind) Valid() error {
	if k == "" || len(k) > 32 {
		return fmt.Errorf("record kind %q: 1 to 32 letters are needed", string(k))
	}
	for i := range len(k) {
		if c := k[i]; (c < 'a' || c > 'z') && c != '-' {
			return fmt.Errorf("record kind %q: byte %#x is not allowed", string(k), c)
		}
	}
	return nil
}
