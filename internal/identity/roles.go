package identity

import (
	"github.com/murmuration/murmuration/internal/wire"
)

// Role is what a person or a token may do. Each role may do all that the ones before it may.
type Role int

// The roles, from least to most. Nobody is the zero value: it may do nothing.
const (
	Nobody         Role = iota
	Viewer              // reads everything but secrets
	Developer           // publishes releases and builds
	ReleaseManager      // starts and steers rollouts, locks services, stops the fleet
	Ops                 // hosts, join tokens, lifting a stop, revoking builder keys
	Admin               // users, builder keys
)

var roleNames = [...]string{"nobody", "viewer", "developer", "release-manager", "ops", "admin"}

// String is the role as the API spells it.
func (r Role) String() string {
	if r < Nobody || r > Admin {
		return "nobody"
	}
	return roleNames[r]
}

// ParseRole reads what [Role.String] wrote, except "nobody".
func ParseRole(s string) (Role, error) {
	for r := Viewer; r <= Admin; r++ {
		if roleNames[r] == s {
			return r, nil
		}
	}
	return Nobody, wire.Invalid("role %q is unknown: use viewer, developer, release-manager, ops or admin", s)
}
