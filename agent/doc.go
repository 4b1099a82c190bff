// Package agent is the host's side of a deployment: it brings releases to a host, makes them run, looks after them
// and reports. It is a library; cmd/murmur-agent is the program around it.
//
// # Who owns what
//
// One goroutine, the loop, owns what the agent was told and what it knows of every service. It decides (package
// function decide, which is pure) and hands the work out. Each service has a goroutine of its own, the unit, which
// is the only one to change the service's folder and to start or stop it. Staging runs in workers, at most
// Config.StageAtOnce at a time, and only ever adds a folder. Sessions, timers and workers send the loop functions
// to run; nothing else touches its state. Of I/O the loop does one thing itself: it writes agent.json.
//
// # What holds
//
//   - Everything is level-triggered. An order says what the host should be, whole; the agent compares and takes the
//     next step. The newest order is on disk before it is obeyed, and an agent that starts without a network acts on
//     it. An order with a lower term, or the same term and a lower revision, is refused.
//   - Nothing is unpacked whose signature, digest, id and service do not check out. Signature, service and room on
//     the disk are looked at before a byte is fetched.
//   - An activation is: pre checks, drain, journal, links, start, health, post checks, journal. Until the journal
//     says "switching", an emergency stop or a newer order calls it off; after that it ends on the new release or,
//     by itself, on the one before. Killed at any line, the next agent finishes it (package install says how).
//   - A release that failed is not tried again until the order's retry number, or its release, changes.
//   - An emergency stop starts no activation but a way back. A way back skips the pre checks, ignores a drain that
//     fails, and has no way back of its own: a broken script of an old release must not hold it.
//   - Services outlive the agent (package runner says how). Ending, upgrading or killing it restarts nothing.
//   - A local rollback needs no network and no agent. It pins the service: the control plane is obeyed again when it
//     wants another release than the one the host went back from, or after `murmur-agent resume`.
//   - Clean-up removes no release that is current, previous, staged for, listed by the order as kept, or pinned.
//
// # On disk
//
//	<root>/.murmur/agent.json         what the agent was told last
//	<root>/.murmur/artifacts/<id>...  artifacts, kept to be offered to peers and to rebuild the next one from
//	<root>/.murmur/agent.sock, lock   the control socket (mode 0600), and the lock that makes the agent the only one
//	<root>/<service>/                 see package install; run.json and log/ are package runner's
//
// # Testing against it
//
// Config takes fakes for everything outside: Swarm, Verifier, TrustStore, Client, Bus. Tests here also set a hook
// that is called before and after every durable step, and kill the process there.
package agent
