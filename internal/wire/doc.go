// Package wire is what crosses the network's edge: the table that turns errors into statuses with safe
// messages. It knows Connect and the store's sentinels and nothing of any role.
//
// A handler returns plain errors. An error whose text may be shown to a caller is made by [Invalid], [Denied]
// and their siblings, or wraps one of them; what wraps a sentinel of package record gets a fixed text; all
// else is logged and answered as "internal error" with a number to find it in the log.
package wire
