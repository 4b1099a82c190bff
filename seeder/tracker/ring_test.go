package tracker

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// fleet registers a random fleet and returns the rack of each host.
func fleet(rt *rapid.T, tr *Tracker) map[string]string {
	racks := rapid.SliceOfN(rapid.IntRange(1, 30), 1, 8).Draw(rt, "hosts per rack")
	out := map[string]string{}
	for r, n := range racks {
		for i := range n {
			host := fmt.Sprintf("h%d-%d", r, i)
			out[host] = fmt.Sprintf("rack-%d", r)
			done := rapid.IntRange(0, 9).Draw(rt, "done") == 0
			if err := tr.Register(hexHash, host, out[host], fmt.Sprintf("10.0.%d.%d:1000", r, i+1), done); err != nil {
				rt.Fatal(err)
			}
		}
	}
	return out
}

func TestEveryHostKnowsASourceAndGetsWhatItAskedFor(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tr := newTracker(Config{})
		racks := fleet(rt, tr)
		if err := tr.Register(hexHash, "seeder:a", "", "10.9.9.9:1000", true); err != nil {
			rt.Fatal(err)
		}
		n := rapid.IntRange(2, 12).Draw(rt, "n")
		r := tr.swarms[[20]byte([]byte(hash))]
		for host := range racks {
			peers := tr.Peers(hexHash, host, n)
			seen, complete := map[string]bool{host: true}, false
			for _, p := range peers {
				if seen[p.HostID] {
					rt.Fatalf("%s is told about %s twice, or about itself", host, p.HostID)
				}
				seen[p.HostID] = true
				complete = complete || r.byHost[p.HostID].complete
			}
			if r.byHost[host].complete {
				if complete {
					rt.Fatalf("%s has everything and is told about another that has", host)
				}
				continue
			}
			if !complete {
				rt.Fatalf("%s has nobody with everything among %v", host, peers)
			}
			if want := min(n, len(racks)); len(peers) != want { // the fleet and the seeder, without itself
				rt.Fatalf("%s got %d peers, want %d", host, len(peers), want)
			}
		}
	})
}

func TestLinksConnectEveryHostWithoutAnySeeder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tr := newTracker(Config{})
		racks := rapid.SliceOfN(rapid.IntRange(1, 20), 1, 8).Draw(rt, "hosts per rack")
		var hosts []string
		for r, n := range racks {
			for i := range n {
				host := fmt.Sprintf("h%d-%d", r, i)
				hosts = append(hosts, host)
				if err := tr.Register(hexHash, host, fmt.Sprintf("rack-%d", r), fmt.Sprintf("10.0.%d.%d:1000", r, i+1), false); err != nil {
					rt.Fatal(err)
				}
			}
		}
		links := map[string][]string{}
		n := rapid.IntRange(1, 6).Draw(rt, "n")
		for _, h := range hosts {
			for _, p := range tr.Peers(hexHash, h, n) {
				links[h], links[p.HostID] = append(links[h], p.HostID), append(links[p.HostID], h)
			}
		}
		reached := map[string]bool{hosts[0]: true}
		for todo := []string{hosts[0]}; len(todo) > 0; {
			next := links[todo[0]]
			todo = todo[1:]
			for _, h := range next {
				if !reached[h] {
					reached[h] = true
					todo = append(todo, h)
				}
			}
		}
		if len(reached) != len(hosts) {
			rt.Fatalf("%d of %d hosts are connected with %d peers each", len(reached), len(hosts), n)
		}
	})
}

func TestChoiceIsLocalSpreadAndRegular(t *testing.T) {
	tr := newTracker(Config{})
	rack := map[string]string{}
	for r := range 10 {
		for i := range 40 {
			host := fmt.Sprintf("h%d-%d", r, i)
			rack[host] = fmt.Sprintf("rack-%d", r)
			if err := tr.Register(hexHash, host, rack[host], fmt.Sprintf("10.0.%d.%d:1000", r, i+1), false); err != nil {
				t.Fatal(err)
			}
		}
	}
	const n = 12
	named, crossed := map[string]int{}, map[string]bool{}
	for host := range rack {
		far := 0
		for _, p := range tr.Peers(hexHash, host, n) {
			named[p.HostID]++
			if rack[p.HostID] != rack[host] {
				far++
				crossed[rack[host]+rack[p.HostID]] = true
			}
		}
		if far < n/3 || far > n/3+1 {
			t.Errorf("%s: %d of %d peers from other racks, want a third", host, far, n)
		}
	}
	counts := slices.Sorted(maps.Values(named))
	if len(named) != len(rack) || counts[0] < n/2 || counts[len(counts)-1] > 2*n {
		t.Errorf("%d of %d hosts are named, between %d and %d times; want about %d each", len(named), len(rack), counts[0], counts[len(counts)-1], n)
	}
	if len(crossed) < 40 {
		t.Errorf("only %d of 90 pairs of racks have a link", len(crossed))
	}
	if a, b := tr.Peers(hexHash, "h0-0", n), tr.Peers(hexHash, "h0-0", n); !slices.Equal(a, b) {
		t.Error("the same seed chooses differently")
	}
}

func BenchmarkAnnounceChoice10000(b *testing.B) {
	tr := newTracker(Config{})
	for i := range 10_000 {
		if err := tr.Register(hexHash, fmt.Sprintf("h%d", i), fmt.Sprintf("rack-%d", i/40), fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255), false); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		tr.Peers(hexHash, "h77", 30)
	}
}
