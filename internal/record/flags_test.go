package record_test

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/murmuration/murmuration/internal/record"
)

// TestFlagDefKeepsEverything: a definition that goes through its domain type comes back as it was, so that no field is
// forgotten in either direction.
func TestFlagDefKeepsEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var def record.FlagDef
		fill(reflect.ValueOf(&def).Elem(), drawn{t})
		if diff := cmp.Diff(def, record.NewFlagDef(def.Feature()), cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
		var seg record.Segment
		fill(reflect.ValueOf(&seg).Elem(), drawn{t})
		again := record.NewSegment(seg.Feature())
		again.UpdatedAt, again.UpdatedBy = seg.UpdatedAt, seg.UpdatedBy
		if diff := cmp.Diff(seg, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestFlagVersionKeysSort: the digits of history keys sort as the versions do.
func TestFlagVersionKeysSort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Uint64Range(0, 1<<50).Draw(t, "a"), rapid.Uint64Range(0, 1<<50).Draw(t, "b")
		ka, kb := record.FlagVersionKey("k", a), record.FlagVersionKey("k", b)
		if (a < b) != (ka.ID < kb.ID) || ka.Valid() != nil {
			t.Fatalf("%s and %s", ka, kb)
		}
	})
}
