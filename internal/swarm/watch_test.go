package swarm

import (
	"testing"
	"time"

	"github.com/anacrolix/torrent"
)

// TestWatchIsBusyWhileOwed holds the patrol to sleeping exactly while nobody owes an answer.
func TestWatchIsBusyWhileOwed(t *testing.T) {
	w, p, now := newWatch(newNames()), new(torrent.Peer), time.Now()
	w.conns[p] = &debt{name: "host"} // as the first callback of a real connection leaves it
	if w.owed() || len(w.busy) != 0 {
		t.Error("busy before any order")
	}
	w.ordered(p, now)
	w.ordered(p, now)
	if len(w.busy) != 1 {
		t.Error("an order does not wake the patrol")
	}
	w.settled(p)
	for range 2 { // asking changes nothing
		if !w.owed() {
			t.Error("not owed with an order open")
		}
	}
	w.settled(p)
	if w.owed() {
		t.Error("owed with every order settled")
	}
	w.ordered(p, now)
	w.settled(p)
	if !w.owed() {
		t.Error("an order that was settled between two looks is not seen")
	}
	if w.owed() {
		t.Error("owed twice for one order")
	}
}
