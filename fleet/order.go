package fleet

import (
	"cmp"
	"slices"

	"github.com/murmuration/murmuration/dial"
)

// Order returns the hosts in the order in which a rollout takes them: first the canary cohort of at most first
// hosts, spread over racks (one host of every rack before a second of any), then all others grouped by
// data centre in order of its name. Within these, hosts follow a stable hash of salt and id, ties by id.
//
// The result depends on the salt and the hosts' ids, racks and data centres, never on the order given. Adding
// or removing a host does not change the order of any two others, except that those which enter or leave the
// canary cohort by it move between its part and their data centre's.
func Order(hosts []Host, salt string, first int) []Host {
	ranked := rank(hosts, salt)
	first = min(max(first, 0), len(ranked))
	slices.SortStableFunc(ranked, func(a, b ranking) int { return cmp.Compare(a.turn, b.turn) })
	rest := ranked[first:]
	slices.SortFunc(rest, func(a, b ranking) int {
		return cmp.Or(cmp.Compare(a.host.DC(), b.host.DC()), a.compare(b))
	})
	ordered := make([]Host, len(ranked))
	for i, r := range ranked {
		ordered[i] = r.host
	}
	return ordered
}

// ranking is a host with its hash, and its turn within its rack: the first of every rack has turn 0.
type ranking struct {
	host Host
	hash uint32
	turn int
}

func (r ranking) compare(other ranking) int {
	return cmp.Or(cmp.Compare(r.hash, other.hash), cmp.Compare(r.host.ID, other.host.ID))
}

// rank sorts hosts by hash and gives each its turn.
func rank(hosts []Host, salt string) []ranking {
	ranked := make([]ranking, len(hosts))
	for i, h := range hosts {
		ranked[i] = ranking{host: h, hash: dial.Hash(salt, h.ID)}
	}
	slices.SortFunc(ranked, ranking.compare)
	turns := make(map[place]int)
	for i := range ranked {
		at := place{ranked[i].host.DC(), ranked[i].host.Rack()}
		ranked[i].turn = turns[at]
		turns[at]++
	}
	return ranked
}

// place is a rack: its name means something only within its data centre.
type place struct{ dc, rack string }
