// Package memstore is a record.Store in memory: for tests of everything that stores, and for tools. It passes
// the same contract as the etcd store (internal/storetest) and adds what a test wants to inject: operations
// that fail, answers that get lost, watchers that fall behind, leaders that lose their lease.
//
// It keeps its promises inside one process only and forgets everything when it is closed. It starts no
// goroutine and no timer, so it works inside a testing/synctest bubble.
package memstore
