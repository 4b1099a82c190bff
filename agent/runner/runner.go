// Package runner makes a release run on a host, in one of four ways: as a process the agent looks after, as a
// systemd unit, through commands of the recipe's own, or not at all (files only).
//
// # Processes outlive the agent
//
// A process runs in a session of its own, writes its log straight to a file, and keeps running when the agent is
// stopped, upgraded or killed. What runs is written to run.json before and after every fork, so the next agent
// finds it again, by process id and start time or, when the agent died in between, by a random mark in the
// process's environment. A systemd unit for the agent therefore needs KillMode=process.
//
// # Sockets outlive the process
//
// The agent opens the recipe's ports and passes them as systemd does (sd_listen_fds(3): LISTEN_FDS, LISTEN_PID,
// LISTEN_FDNAMES, descriptors from 3). It never accepts on them. During a restart the new process starts while
// the old still accepts; when the new one has stayed up for a moment the old is told to end by SIGTERM. At every
// instant somebody holds the socket, so no connection is refused: those nobody has accepted yet wait in the
// kernel's queue. The price is that two copies run for a moment, which a service with ports must bear; one
// without ports is stopped first. Descriptors are in non-blocking mode, since two processes share each.
//
// The service must do its part on SIGTERM: stop accepting, answer what it accepted, end. A Go service closes its
// listener and waits for its connections; http.Server.Shutdown alone drops a request it is just reading.
//
// An agent that starts anew fetches the sockets back out of the running process by pidfd_getfd(2) (Linux 5.6,
// and the right to trace the process: same user or root). Where that is refused the service is restarted.
package runner

import (
	"context"
	"errors"
	"time"

	"github.com/murmuration/murmuration/release"
)

// ErrStart is wrapped when a release could not be made to run.
var ErrStart = errors.New("the release does not start")

// Spec is what to run. It is not changed after it was handed over.
type Spec struct {
	Service, Release string
	// Dir is the release's folder, absolute.
	Dir string
	Run release.Run
	// Ports are the recipe's, with the host's own addresses put in.
	Ports []release.Port
	// Env is the whole environment but for what the runner adds.
	Env []string
}

// Status is what a runner knows of what it runs.
type Status struct {
	Running bool
	Release string
	// PID is the process's, 0 where the runner has none.
	PID int
	// Restarts counts restarts after crashes, of this release, since it was started.
	Restarts int
	// Looping is set while crashes come so fast that the release counts as failed. Restarts go on, slowly.
	Looping bool
	// Detail is the last thing that went wrong, "" if nothing did.
	Detail string
	// Addrs is where each port really listens, by name.
	Addrs map[string]string
}

// Runner runs one service. Start, Stop and Adopt are called by one goroutine at a time; Status by any.
type Runner interface {
	// Start makes spec run in place of whatever this runner runs now, and returns when that is gone. When it
	// fails, what ran before may or may not run still: see [Runner.Status].
	Start(ctx context.Context, spec Spec) error
	// Stop ends what runs. Nothing running is no error.
	Stop(ctx context.Context) error
	// Adopt takes over what an earlier agent left running. It reports whether spec runs; anything else of the
	// service's that was found running has been stopped.
	Adopt(ctx context.Context, spec Spec) (bool, error)
	// Status is a snapshot; its map belongs to the caller.
	Status() Status
	// Detach stops looking after what runs and leaves it running.
	Detach()
}

// stopTimeout is how long spec has between SIGTERM and SIGKILL.
func (s Spec) stopTimeout() time.Duration {
	if s.Run.StopTimeout > 0 {
		return s.Run.StopTimeout.Std()
	}
	return 30 * time.Second
}
