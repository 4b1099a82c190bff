// Package wire converts between what travels (proto/murmur/v1) and what is stored or computed with (records
// and domain types).
//
// Conversions to the wire cannot fail and never share memory that the caller may change later, except byte
// slices of records, which nobody writes to. Conversions from the wire check what they read: everything from
// the network is hostile until it has passed one of them. All functions are pure and safe for concurrent use.
package wire
