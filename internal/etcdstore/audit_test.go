package etcdstore

import (
	"errors"
	"testing"

	"github.com/murmuration/murmuration/internal/record"
)

// TestCompare checks what a comparison concludes about one record "a", for a watch that is at revision 10.
func TestCompare(t *testing.T) {
	a := record.Key{Kind: record.KindService, ID: "a"}
	at := func(rev int64) map[record.Key]int64 {
		if rev == 0 {
			return map[record.Key]int64{}
		}
		return map[record.Key]int64{a: rev}
	}
	const equal, late, missed = "equal", "late", "missed"
	for name, test := range map[string]struct {
		known, stored, storeRev int64
		want                    string
	}{
		"same":                 {5, 5, 12, equal},
		"both without":         {0, 0, 12, equal},
		"change on its way":    {5, 11, 12, late},
		"creation on its way":  {0, 11, 12, late},
		"deletion may be":      {5, 0, 12, late},
		"change missed":        {5, 8, 12, missed},
		"creation missed":      {0, 8, 12, missed},
		"deletion missed":      {5, 0, 10, missed},
		"known but not stored": {9, 5, 12, missed},
	} {
		w := &watch{known: at(test.known), rev: 10}
		err := w.compare(at(test.stored), test.storeRev)
		got := equal
		switch {
		case errors.Is(err, errPlaceLost):
			got = missed
		case err != nil:
			t.Fatal(err)
		case w.pending != nil:
			got = late
		}
		if got != test.want {
			t.Errorf("%s: %s (%v), want %s", name, got, err, test.want)
		}
	}
}

// TestAuditStuck checks that what stays late from one comparison to the next counts as missed.
func TestAuditStuck(t *testing.T) {
	a := record.Key{Kind: record.KindService, ID: "a"}
	w := &watch{known: map[record.Key]int64{a: 5}, rev: 10}
	if err := w.compare(map[record.Key]int64{a: 11}, 12); err != nil {
		t.Fatal(err)
	}
	if err := w.overdue(); !errors.Is(err, errMissed) {
		t.Errorf("nothing arrived: %v, want errMissed", err)
	}
	w.known[a], w.rev = 11, 11
	if err := w.overdue(); err != nil {
		t.Errorf("it arrived: %v", err)
	}
	w.known, w.rev = map[record.Key]int64{a: 5}, 12
	if err := w.overdue(); err != nil {
		t.Errorf("the watch is past the comparison: %v", err)
	}
}
