// Package seeder is the control side of deploys: it holds artifacts and their first copies, tells agents what their
// host should be, elects who runs the rollouts and runs them, and serves the API.
//
// # Who owns what
//
// Any number of seeders run over one store. Each of them
//
//   - follows the records in a view (view.go): one watch, one copy in memory, ordered by the store's revision;
//   - holds the sessions of the agents attached to it (sessions.go, session.go) and computes, from the view alone,
//     what each host should be (desired.go): every seeder tells a host the same, and an order carries the term
//     of the newest leader and the revision it was computed from, so agents refuse what is out of date;
//   - offers the artifacts that hosts need and pushes peers (swarm.go), with packages depot and tracker;
//   - answers the API (api.go has the table of routes). What only the leader knows is passed on to it (forward.go).
//
// One of them leads (loop.go, reign.go): it owns the state of every rollout that is not over. The others tell it what
// their agents say.
//
// # Ordering promises
//
// Decide, write down, act, report. A rollout's next state is computed by package rollout, committed with
// compare-and-swap in a transaction that holds only while this process is the elected leader, and only then
// are its effects performed, commands answered and agents told (they are told because the commit reaches every
// seeder's view). Effects are performed in order, keyed, and again after a crash: the second time does
// nothing. So a leader may die between any two lines; the next one takes over what is stored, performs what the
// outbox still holds, and asks the newest report of every host what it means.
//
// Reports are levels, not edges: an agent's report is the whole truth about a service and replaces the one before,
// and what it means for a rollout is found by comparing it with the rollout's state (report.go). Nothing depends on
// having seen every report.
//
// # Blocking promises
//
// Nothing waits for a host. A session has two goroutines and no queue: what is due is marked, and made when the
// connection takes it. The reign's goroutine never does I/O: commits, gates, judges and notifiers run beside it and
// their results come back as events. A store that is away stops decisions, not sessions: agents stay attached and
// keep what they were told.
//
// # Emergency stop
//
// Stop needs neither leader nor loop: any seeder commits the record before it answers; every seeder's watch brings it
// and each pushes it to its agents at once; the leader halts every rollout.
//
// # Testing
//
// The tests of this package run real seeders over internal/memstore with fake agents that speak real sessions over
// loopback TLS; see harness_test.go. The store's faults are part of them.
package seeder
