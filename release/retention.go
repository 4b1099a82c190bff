package release

import (
	"cmp"
	"slices"
	"time"
)

// DefaultKeep is how many releases of a service retention keeps besides those that are referenced.
const DefaultKeep = 10

// Meta is what retention needs to know of one release of one service.
type Meta struct {
	ID          string
	PublishedAt time.Time
	Pinned      bool
}

// Keep decides retention for one service: it returns the ids to drop, oldest first. The newest keepN releases
// stay (by publication, then id; less than one counts as one), and so does every pinned one and every one in
// referenced: stable, previous, history, and whatever a rollout names. The newest keepN are counted over all
// releases, so a referenced release uses up a place like any other.
func Keep(releases []Meta, keepN int, referenced map[string]bool) (drop []string) {
	sorted := slices.SortedFunc(slices.Values(releases), func(a, b Meta) int {
		return cmp.Or(b.PublishedAt.Compare(a.PublishedAt), cmp.Compare(b.ID, a.ID))
	})
	for i, r := range slices.Backward(sorted) {
		if i >= max(keepN, 1) && !r.Pinned && !referenced[r.ID] {
			drop = append(drop, r.ID)
		}
	}
	return drop
}
