package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

// Committer is where an audited commit goes: a store, or a leadership whose term fences it.
type Committer interface {
	Commit(ctx context.Context, ops ...record.Op) (rev int64, err error)
}

// AuditViewer is implemented by values that hold secrets: AuditView is what an audit record may show of them.
type AuditViewer interface {
	AuditView() any
}

// Bounds of an audit record, in bytes.
const (
	maxAuditValue = 64 << 10 // of before and of after; longer ones are replaced by their digest
	maxAuditText  = 2 << 10  // of why and of object
)

// System is who acts when the context names no caller: the control plane itself.
const System = "system"

// Commit applies ops and writes down, in the same transaction, who did what to which object and why. Before and after
// are shown as JSON; a value that holds secrets implements [AuditViewer]; nil shows nothing. Who is
// [CallerFrom] ctx. A conflict of the caller's own ops is returned as it is; two audited commits that meet
// at the end of the chain are no conflict, the later one is repeated.
func (a *Authority) Commit(ctx context.Context, what, object, why string, before, after any, ops ...record.Op) (rev int64, err error) {
	return a.CommitWith(ctx, a.store, what, object, why, before, after, ops...)
}

// CommitWith is [Authority.Commit] through another committer, for example a [record.Leadership].
func (a *Authority) CommitWith(ctx context.Context, to Committer, what, object, why string, before, after any, ops ...record.Op) (rev int64, err error) {
	entry, err := newAudit(CallerFrom(ctx), what, object, why, before, after)
	if err != nil {
		return 0, err
	}
	a.auditMu.Lock()
	defer a.auditMu.Unlock()
	for {
		head, headRev, err := a.auditHead(ctx)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", what, err)
		}
		all, err := chain(entry, head, headRev, ops)
		if err != nil {
			return 0, err
		}
		rev, err := to.Commit(ctx, all...)
		if err == nil {
			a.cache.committed(rev, ops)
			return rev, nil
		}
		if !errors.Is(err, record.ErrConflict) || !a.headMoved(ctx, headRev) {
			return 0, err
		}
	}
}

// headMoved reports whether another process wrote an audit record since the head was read: then the conflict may be
// only that, and the commit is tried again. If the caller's ops conflict too, the next try says so.
func (a *Authority) headMoved(ctx context.Context, headRev int64) bool {
	_, rev, err := a.auditHead(ctx)
	return err == nil && rev != headRev
}

// auditHead reads the end of the chain; revision 0 means that there is none yet.
func (a *Authority) auditHead(ctx context.Context) (record.AuditHead, int64, error) {
	head, rev, err := load[record.AuditHead](ctx, a.store, record.AuditHeadKey)
	if errors.Is(err, record.ErrNotFound) {
		return record.AuditHead{}, 0, nil
	}
	return head, rev, err
}

func newAudit(c Caller, what, object, why string, before, after any) (record.Audit, error) {
	entry := record.Audit{At: now(), Who: c.Name, From: c.From, What: what, Object: clip(object), Why: clip(why)}
	if entry.Who == "" {
		entry.Who = System
	}
	var err error
	if entry.Before, err = auditJSON(before); err != nil {
		return entry, fmt.Errorf("audit %s: %w", what, err)
	}
	if entry.After, err = auditJSON(after); err != nil {
		return entry, fmt.Errorf("audit %s: %w", what, err)
	}
	return entry, nil
}

// auditJSON renders what an audit record shows of a value.
func auditJSON(v any) (string, error) {
	if v == nil {
		return "", nil
	}
	if viewer, ok := v.(AuditViewer); ok {
		v = viewer.AuditView()
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	if len(b) > maxAuditValue {
		sum := sha256.Sum256(b)
		return fmt.Sprintf(`{"bytes":%d,"sha256":"%x"}`, len(b), sum), nil
	}
	return string(b), nil
}

func clip(s string) string {
	if len(s) > maxAuditText {
		s = s[:maxAuditText] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// chain appends the entry to the chain that ends in head and adds the ops that store both.
func chain(entry record.Audit, head record.AuditHead, headRev int64, ops []record.Op) ([]record.Op, error) {
	entry.Seq, entry.Prev = head.Seq+1, head.Hash
	hash, err := auditHash(entry)
	if err != nil {
		return nil, err
	}
	entry.Hash = hash
	entryOp, err := put(record.AuditKey(entry.Seq), entry, 0)
	if err != nil {
		return nil, err
	}
	headOp, err := put(record.AuditHeadKey, record.AuditHead{Seq: entry.Seq, Hash: hash}, headRev)
	if err != nil {
		return nil, err
	}
	// The caller's ops come first: when they conflict, the store names them and not the chain.
	all := make([]record.Op, 0, len(ops)+2)
	return append(append(all, ops...), entryOp, headOp), nil
}

// auditHash is the SHA-256 of the previous record's hash, a line feed, and the record as JSON without its
// own hash (fields in the order of [record.Audit], which is part of the format).
func auditHash(entry record.Audit) (string, error) {
	entry.Hash = ""
	b, err := json.Marshal(entry)
	if err != nil {
		return "", fmt.Errorf("hash the audit record: %w", err)
	}
	h := sha256.New()
	io.WriteString(h, entry.Prev+"\n")
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// auditPage is how many records are read at once.
const auditPage = 500

// ListAudit returns at most limit records (1 to 1000, 0 means 50), newest first, of objects that start with
// object, and older than the sequence number before (0 starts at the newest).
func (a *Authority) ListAudit(ctx context.Context, limit int, before int64, object string) ([]record.Audit, error) {
	if limit <= 0 {
		limit = 50
	}
	limit = min(limit, 1000)
	after := ""
	if before > 0 {
		after = record.AuditKey(before).ID
	}
	var out []record.Audit
	for {
		items, err := a.store.Page(ctx, record.KindAudit, "", after, auditPage, true)
		if err != nil {
			return nil, fmt.Errorf("list the audit records: %w", err)
		}
		for _, item := range items {
			entry, err := record.Decode[record.Audit](item.Value)
			if err != nil {
				return nil, fmt.Errorf("list the audit records: %s: %w", item.Key, err)
			}
			if after = item.Key.ID; !strings.HasPrefix(entry.Object, object) {
				continue
			}
			if out = append(out, entry); len(out) == limit {
				return out, nil
			}
		}
		if len(items) < auditPage {
			return out, nil
		}
	}
}

// AuditReport is the result of [Authority.VerifyAudit].
type AuditReport struct {
	// Records is how many records were walked; FirstBad the sequence number of the first that is missing or was
	// changed, 0 when the chain holds; Why says what is wrong with it.
	Records  int64
	FirstBad int64
	Why      string
}

// VerifyAudit walks the chain from the first record to the head.
func (a *Authority) VerifyAudit(ctx context.Context) (AuditReport, error) {
	head, _, err := a.auditHead(ctx)
	if err != nil {
		return AuditReport{}, fmt.Errorf("verify the audit chain: %w", err)
	}
	var r AuditReport
	prev := ""
	err = a.walkAudit(ctx, func(id string, entry record.Audit, bad error) bool {
		if r.Records == head.Seq {
			// Written after the head was read: the next walk sees them.
			return false
		}
		r.Records++
		if bad == nil {
			bad = auditFits(id, entry, r.Records, prev)
		}
		if bad != nil {
			r.FirstBad, r.Why = r.Records, bad.Error()
			return false
		}
		prev = entry.Hash
		return true
	})
	if err != nil {
		return AuditReport{}, fmt.Errorf("verify the audit chain: %w", err)
	}
	switch {
	case r.FirstBad != 0:
	case r.Records < head.Seq:
		r.FirstBad, r.Why = r.Records+1, fmt.Sprintf("the chain ends at %d, its head says %d: records were removed from the end", r.Records, head.Seq)
	case prev != head.Hash:
		r.FirstBad, r.Why = r.Records, "the last record's hash is not the one in the head"
	}
	return r, nil
}

// auditFits reports whether the record stored under id is the one of sequence number seq that follows prev.
func auditFits(id string, entry record.Audit, seq int64, prev string) error {
	if want := record.AuditKey(seq).ID; id != want || entry.Seq != seq {
		return fmt.Errorf("record %d is missing: found %s", seq, strings.TrimLeft(id, "0"))
	}
	if entry.Prev != prev {
		return errors.New("it does not follow the record before it")
	}
	hash, err := auditHash(entry)
	if err != nil {
		return err
	}
	if hash != entry.Hash {
		return errors.New("its content was changed: the hash does not fit")
	}
	return nil
}

// walkAudit calls fn with every record, oldest first, until fn returns false. Bad says why a record cannot be
// decoded.
func (a *Authority) walkAudit(ctx context.Context, fn func(id string, entry record.Audit, bad error) bool) error {
	after := ""
	for {
		items, err := a.store.Page(ctx, record.KindAudit, "", after, auditPage, false)
		if err != nil {
			return err
		}
		for _, item := range items {
			entry, err := record.Decode[record.Audit](item.Value)
			if !fn(item.Key.ID, entry, err) {
				return nil
			}
			after = item.Key.ID
		}
		if len(items) < auditPage {
			return nil
		}
	}
}

// ExportAudit writes every record, oldest first, as JSON lines: the stored fields, so that the chain can be verified
// from the file alone (see auditHash in the source for the recipe).
func (a *Authority) ExportAudit(ctx context.Context, w io.Writer) error {
	enc := json.NewEncoder(w)
	var failed error
	err := a.walkAudit(ctx, func(id string, entry record.Audit, bad error) bool {
		if bad != nil {
			failed = wire.Precondition("audit record %s cannot be read: run `murmur audit verify`", strconv.Quote(id))
			return false
		}
		failed = enc.Encode(entry)
		return failed == nil
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("export the audit records: %w", err)
	}
	return nil
}
