// Package fleet knows what a fleet is: hosts with labels, the selectors that pick some of them, the order in
// which a rollout takes them, and how many may be unavailable at once.
//
// # Order
//
// A rollout takes hosts in the order of [Order]. That order depends on the salt (the service) and the hosts'
// ids and places alone, so every process computes the same one and the canaries of a service stay the same
// from release to release. A host that joins finds its place without moving the others past each other; only
// the spread of the first cohort over racks may swap a canary.
//
// # Selectors
//
// A selector is a list of requirements separated by commas, all of which must hold:
//
//	role=web            the label is "web"            (also ==)
//	rack!=r1            it is not "r1", or missing
//	dc in (a,b)         it is one of these
//	dc notin (a,b)      it is none of these, or missing
//	canary              the label is there, whatever its value
//	!gpu                it is not there
//
// The keys "id" and "name" stand for the host's own id and name. The empty selector picks every host. It is the
// language of Kubernetes label selectors, so what people know holds here.
//
// The package is pure: no I/O, no clock, no state. All functions are safe for concurrent use and change none
// of their arguments. Every parser takes hostile input and bounds what it makes of it.
package fleet
