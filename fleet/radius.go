package fleet

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// BlastRadius says in words what would be touched if all these hosts were: "12 hosts in 3 racks of dc a".
func BlastRadius(hosts []Host) string {
	var r Radius
	for _, h := range hosts {
		r.Add(h.DC(), h.Rack())
	}
	return r.String()
}

// Radius counts hosts by place; the zero value is ready. It is for callers that hold no [Host] values.
type Radius struct {
	hosts int
	racks map[place]struct{}
	dcs   map[string]struct{}
}

// Add counts one host in the rack of the data centre.
func (r *Radius) Add(dc, rack string) {
	if r.racks == nil {
		r.racks, r.dcs = make(map[place]struct{}), make(map[string]struct{})
	}
	r.hosts++
	r.racks[place{dc, rack}] = struct{}{}
	r.dcs[dc] = struct{}{}
}

// String renders the radius; hosts without labels are not said to be anywhere.
func (r *Radius) String() string {
	switch r.hosts {
	case 0:
		return "no hosts"
	case 1:
		return "1 host" + r.where()
	}
	return fmt.Sprintf("%d hosts", r.hosts) + r.where()
}

func (r *Radius) where() string { return r.inRacks() + r.inDCs() }

func (r *Radius) inRacks() string {
	if len(r.racks) > 1 {
		return fmt.Sprintf(" in %d racks", len(r.racks))
	}
	for at := range r.racks {
		if at.rack != "" {
			return " in rack " + at.rack
		}
	}
	return ""
}

func (r *Radius) inDCs() string {
	names := slices.Sorted(maps.Keys(r.dcs))
	switch {
	case len(names) > 4:
		return fmt.Sprintf(" of %d dcs", len(names))
	case len(names) > 1:
		if names[0] == "" {
			names[0] = "none"
		}
		return " of dcs " + strings.Join(names, ", ")
	case names[0] == "":
		return ""
	case r.inRacks() == "":
		return " in dc " + names[0]
	}
	return " of dc " + names[0]
}
