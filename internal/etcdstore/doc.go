// Package etcdstore is the record.Store that production uses: records, watches and elections in etcd. It and
// the packages below it are the only ones that import etcd, and it is the only place where a key is spelled:
//
//	<prefix>r/<kind>/<id>           a record; the value is what record.Packer made
//	<prefix>e/<election>/<lease>    a candidate; the one with the lowest create revision leads
//
// so that an etcd role with read and write rights on the range of <prefix> is all the control plane needs.
//
// # Reads and writes
//
// Reads are linearizable. A list is read in pages at one fixed revision. A commit is one etcd transaction whose
// comparisons are the conditions of its ops; when it fails, the same transaction tells which did not
// hold. Every request ends after Config.OpTimeout with record.ErrUnavailable if etcd does not answer,
// and says why as far as it is known.
//
// # Watches
//
// A watch reads everything at revision R, delivers it as a Reset and follows from R+1 on a connection of its
// own, so that large reads do not hold it up. etcd delivers the events of one revision in one response
// (fragmentation is off), which becomes one batch. The watch asks for a required leader, so it does not
// sit silently on a partitioned member, and for progress notices, so that its place is not compacted
// away while nothing happens. It reads everything anew, and delivers a Reset, when its place was compacted,
// when the receiver is Config.WatchBuffer responses behind, and when a periodic comparison of key revisions
// (Config.CompareEvery) finds that something was missed.
//
// # Elections
//
// A candidate holds a lease of Config.LeaseTTL and a key bound to it; its term is the revision that created
// the key. Every commit of a leader compares that revision in the same transaction, so a leader that was
// replaced without noticing cannot write. Lost is closed a fifth of the lease before the lease can run out
// unrenewed, on the monotonic clock.
//
// The package keeps to what etcd documents in its API guarantees (etcd.io/docs, learning/api_guarantees).
package etcdstore
