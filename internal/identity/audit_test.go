package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/internal/memstore"
	"github.com/murmuration/murmuration/internal/record"
)

// auditFixture has a chain of exactly n records.
func auditFixture(t testing.TB, n int) *fixture {
	t.Helper()
	f := newFixture(t)
	ctx := WithCaller(context.Background(), Caller{Name: "root", From: "192.0.2.1", Role: Admin})
	for i := 2; i <= n; i++ { // the first is that of the first admin
		if _, err := f.Commit(ctx, "test.do", fmt.Sprintf("thing/%d", i), "because", i-1, i); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// edit changes a stored audit record behind the authority's back.
func (f *fixture) edit(t testing.TB, seq int64, change func(*record.Audit)) {
	t.Helper()
	e, rev, err := load[record.Audit](context.Background(), f.store, record.AuditKey(seq))
	if err != nil {
		t.Fatal(err)
	}
	change(&e)
	op, err := put(record.AuditKey(seq), e, rev)
	if err != nil {
		t.Fatal(err)
	}
	f.commit(t, op)
}

func (f *fixture) commit(t testing.TB, ops ...record.Op) {
	t.Helper()
	if _, err := f.store.Commit(context.Background(), ops...); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyAuditFindsTampering(t *testing.T) {
	const n = 12
	rehash := func(e *record.Audit) {
		hash, err := auditHash(*e)
		if err != nil {
			t.Fatal(err)
		}
		e.Hash = hash
	}
	for _, tc := range []struct {
		name   string
		tamper func(t *testing.T, f *fixture)
		want   int64
	}{
		{"nothing", func(*testing.T, *fixture) {}, 0},
		{"who", func(t *testing.T, f *fixture) { f.edit(t, 5, func(e *record.Audit) { e.Who = "mallory" }) }, 5},
		{"why", func(t *testing.T, f *fixture) { f.edit(t, 5, func(e *record.Audit) { e.Why = "" }) }, 5},
		{"after", func(t *testing.T, f *fixture) { f.edit(t, 5, func(e *record.Audit) { e.After = "{}" }) }, 5},
		{"time", func(t *testing.T, f *fixture) { f.edit(t, 5, func(e *record.Audit) { e.At = e.At.Add(1000) }) }, 5},
		{"content and hash", func(t *testing.T, f *fixture) {
			f.edit(t, 5, func(e *record.Audit) { e.Who = "mallory"; rehash(e) })
		}, 6},
		{"the last one and its hash", func(t *testing.T, f *fixture) {
			f.edit(t, n, func(e *record.Audit) { e.Who = "mallory"; rehash(e) })
		}, n},
		{"removed", func(t *testing.T, f *fixture) { f.commit(t, record.Drop(record.AuditKey(5), record.Any)) }, 5},
		{"the last removed", func(t *testing.T, f *fixture) { f.commit(t, record.Drop(record.AuditKey(n), record.Any)) }, n},
		{"the first removed", func(t *testing.T, f *fixture) { f.commit(t, record.Drop(record.AuditKey(1), record.Any)) }, 1},
		{"swapped", func(t *testing.T, f *fixture) {
			a, err := f.store.Get(t.Context(), record.AuditKey(5))
			b, err2 := f.store.Get(t.Context(), record.AuditKey(6))
			if err := errors.Join(err, err2); err != nil {
				t.Fatal(err)
			}
			f.commit(t, record.Put(a.Key, b.Value, record.Any), record.Put(b.Key, a.Value, record.Any))
		}, 5},
		{"unreadable", func(t *testing.T, f *fixture) {
			f.commit(t, record.Put(record.AuditKey(5), []byte("x"), record.Any))
		}, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := auditFixture(t, n)
			tc.tamper(t, f)
			r, err := f.VerifyAudit(t.Context())
			if err != nil || r.FirstBad != tc.want || (r.Why == "") != (tc.want == 0) {
				t.Errorf("VerifyAudit = %+v, %v; want the first bad to be %d", r, err, tc.want)
			}
			if tc.want == 0 && r.Records != n {
				t.Errorf("%d records, want %d", r.Records, n)
			}
		})
	}
}

func TestListAudit(t *testing.T) {
	f := auditFixture(t, 12)
	seqs := func(limit int, before int64, object string) []int64 {
		t.Helper()
		records, err := f.ListAudit(t.Context(), limit, before, object)
		if err != nil {
			t.Fatal(err)
		}
		var out []int64
		for _, r := range records {
			out = append(out, r.Seq)
		}
		return out
	}
	if diff := cmp.Diff([]int64{12, 11, 10}, seqs(3, 0, "")); diff != "" {
		t.Error("newest first:", diff)
	}
	if diff := cmp.Diff([]int64{9, 8, 7}, seqs(3, 10, "")); diff != "" {
		t.Error("the next page:", diff)
	}
	if diff := cmp.Diff([]int64{1}, seqs(3, 0, "user/")); diff != "" {
		t.Error("by object:", diff)
	}
	if got := seqs(0, 0, ""); len(got) != 12 {
		t.Errorf("default limit: %v", got)
	}
	records, err := f.ListAudit(t.Context(), 1, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	e := records[0]
	if e.Who != "root" || e.From != "192.0.2.1" || e.What != "test.do" || e.Before != "11" || e.After != "12" || e.Why != "because" {
		t.Errorf("record: %+v", e)
	}
}

func TestExportAuditCanBeVerifiedElsewhere(t *testing.T) {
	f := auditFixture(t, 5)
	var out bytes.Buffer
	if err := f.ExportAudit(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	prev, lines := "", 0
	for line := range strings.Lines(out.String()) {
		var e record.Audit
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		lines++
		if err := auditFits(record.AuditKey(int64(lines)).ID, e, int64(lines), prev); err != nil {
			t.Errorf("line %d: %v", lines, err)
		}
		prev = e.Hash
	}
	if lines != 5 {
		t.Errorf("%d lines", lines)
	}
}

func TestCommitReturnsTheCallersConflict(t *testing.T) {
	f := auditFixture(t, 3)
	k := record.Key{Kind: record.KindService, ID: "web"}
	f.commit(t, record.Put(k, []byte("there"), 0))
	_, err := f.Commit(t.Context(), "service.put", "service/web", "", nil, nil, record.Put(k, []byte("mine"), 0))
	if !errors.Is(err, record.ErrConflict) || !strings.Contains(err.Error(), "web") {
		t.Errorf("Commit: %v, want the conflict on service/web", err)
	}
	if r, err := f.VerifyAudit(t.Context()); err != nil || r.Records != 3 {
		t.Errorf("a refused commit left a record: %+v, %v", r, err)
	}
}

func TestCommitWritesBothOrNothing(t *testing.T) {
	f := auditFixture(t, 3)
	f.store.Fail(func(op memstore.Op) error {
		if op.Name == "commit" {
			return record.ErrUnavailable
		}
		return nil
	})
	k := record.Key{Kind: record.KindService, ID: "web"}
	if _, err := f.Commit(t.Context(), "service.put", "service/web", "", nil, nil, record.Put(k, []byte("x"), 0)); !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("Commit with the store down: %v", err)
	}
	f.store.Fail(nil)
	if _, err := f.store.Get(t.Context(), k); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("the change is there: %v", err)
	}
}

func TestCommitWithLeadership(t *testing.T) {
	f := auditFixture(t, 3)
	lead, err := f.store.Campaign(t.Context(), "loop", "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.CommitWith(t.Context(), lead, "rollout.step", "rollout/1", "", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := lead.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CommitWith(t.Context(), lead, "rollout.step", "rollout/1", "", nil, nil); err == nil {
		t.Error("a leader who resigned could commit")
	}
	if r, err := f.VerifyAudit(t.Context()); err != nil || r.Records != 4 || r.FirstBad != 0 {
		t.Errorf("VerifyAudit = %+v, %v", r, err)
	}
	if last, err := f.ListAudit(t.Context(), 1, 0, ""); err != nil || last[0].Who != System {
		t.Errorf("who is %+v, %v; want the system", last, err)
	}
}

func TestAuditBoundsWhatItShows(t *testing.T) {
	f := newFixture(t)
	long := strings.Repeat("x", maxAuditValue+1)
	if _, err := f.Commit(t.Context(), "test", strings.Repeat("o", 5000), long, nil, long); err != nil {
		t.Fatal(err)
	}
	last, err := f.ListAudit(t.Context(), 1, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	if e := last[0]; len(e.After) > 200 || len(e.Why) > maxAuditText+8 || len(e.Object) > maxAuditText+8 {
		t.Errorf("lengths: after %d, why %d, object %d", len(e.After), len(e.Why), len(e.Object))
	}
	if r, err := f.VerifyAudit(t.Context()); err != nil || r.FirstBad != 0 {
		t.Errorf("VerifyAudit = %+v, %v", r, err)
	}
}
