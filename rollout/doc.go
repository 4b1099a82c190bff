// Package rollout decides how a release spreads over a fleet: which hosts stage, which switch, when to wait, when
// to go on and when to turn back. It is a pure state machine, with no I/O and no clock: [Step] takes a [State]
// and an [Event], and returns the next State and the [Effect] values that must happen because of it.
//
// # The contract of the loop
//
// One elected loop drives each rollout. To it the package promises that it may die between any two lines, if
// it keeps this order:
//
//  1. Step the state with one event, or [StepAll] with what has gathered.
//  2. If the version changed, store the state by compare-and-swap. When that fails, another loop leads: forget
//     the state and the effects, and stop.
//  3. Perform the effects, in order. Each key names an effect once and for all: performing one again must do
//     nothing. An effect that cannot be done (a chat that is down) is given up after its retries.
//  4. Confirm each with [EffectDone], done or given up. Until then it stays in State.Outbox.
//
// A new leader loads the state, performs what is in the Outbox, says [HostLost] of the hosts that are not there,
// and sends a [Tick]. After every event it asks [State.NextTimer] when the next Tick is due. Events of the same
// thing may be sent again at any time: what says nothing new changes nothing, not even the version.
//
// Retarget, like all effects, is a nudge: what a host should do is its [Target], a function of the state alone. An
// agent that was away for a week is sent its target and needs no history. Hosts outside the plan, and all hosts
// once the release is stable, follow the service's stable release; the targets of a rollout that ended otherwise
// hold until the next one begins.
//
// # The life of a rollout
//
//	Pending ─ slot, gate ─▶ Staging ─▶ Activating ─▶ Baking ─┬─▶ Completing ─▶ Complete
//	                                       ▲                 │ next step
//	                                       └──── gate ◀──────┘
//
// From any of these a rollout may be Paused (by a person, a manual step, the emergency stop) or Holding (the
// gate, a budget, lost hosts, the judge); State.Resume is what it returns to and State.Cause what it waits for.
// Holding ends by itself. Failure leads to RollingBack and RolledBack, or with NoAutoRollback to Failed.
//
//   - Staging is out of the risk window: all hosts fetch, none changes. It ends when all reachable hosts are
//     done and the first cohort is ready, or at the stage deadline with whoever is ready.
//   - Every step asks the gate before its first host moves, and stops starting hosts when the gate closes.
//   - Within a step hosts move in waves. A host is unavailable while it is lost, activating, active for less
//     than MinHealthy, or failed and not yet back on what it ran before; of these there may be MaxUnavailable
//     in the plan and MaxUnavailablePerRack in a rack. Unless the limits say otherwise, one data centre moves at
//     a time, in order of name, with a bake between two, and in it one rack at a time; the first of several
//     steps (the canaries) may touch many. While a rack with two or more hosts is lost as a whole nothing else
//     moves: nobody loses two racks. Only its return or removal from the plan ends that.
//   - A lost host is not a failure. After HealthyDeadline nothing waits for it; it is listed, and converges when
//     it returns. A step needs at least one reachable host that runs the release: no data is never healthy.
//   - More than MaxFailures failed hosts fail the rollout, and any failed host does while the first of several
//     steps is current. A failed host goes home at once and does not try again in this rollout.
//   - With NeedVerdict a bake ends with the judge's Pass only. Fail ends the rollout at any time.
//
// # Ways back
//
// A rollback sends every touched host home, to Host.Previous or else Plan.Stable, all at once, asking neither gate
// nor budget; it passes pauses and the emergency stop by, and ends after HealthyDeadline whatever hosts do. A
// host with no home is left as it is and counts as reverted. After an automatic one the service is locked. A
// complete rollout is rolled back on all hosts of its plan, and the stable release is restored. A plan marked
// Instant is a way back of its own, to any earlier release, with the same freedoms.
//
// The emergency stop decides nothing until someone resumes: failures are recorded and acted on then. Only the way
// back is open.
//
// # Cost and testing
//
// A Step copies the hosts at most once and looks over them a few times: about a millisecond for 10,000 hosts
// (BenchmarkStep10000). testdata holds transcripts of whole lives, to be read as stories and regenerated with
// "go test -run Transcripts -rewrite"; TestSafety plays random histories against the promises above.
//
// Values of this package are safe for concurrent use as long as nobody writes to them; Step and StepAll never
// write to the state they are given, but the next state shares memory with it.
package rollout
