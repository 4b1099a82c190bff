// Package script runs the shell scripts of a release on a host: /bin/sh -c, in the release's folder, in a
// process group of its own, with a deadline and with its output bounded.
//
// A script that hangs is killed with everything it started. One that floods costs a fixed amount of memory: the
// first and the last [Keep] bytes are kept and the middle is dropped. Whatever a script left running in its
// process group is killed when the script ends, so scripts cannot start daemons.
package script

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"
)

// Keep is how many bytes of a script's output are kept from its beginning, and again from its end.
const Keep = 32 << 10

// DefaultTimeout ends a script whose recipe gives no timeout.
const DefaultTimeout = 60 * time.Second

// grace is how long output pipes may stay open after the script itself has ended or was killed.
const grace = 2 * time.Second

// Cmd is one script to run.
type Cmd struct {
	// Phase and Name say what the script is for, for reports: "pre" and "database is reachable".
	Phase, Name string
	// Run is given to /bin/sh -c.
	Run string
	// Dir is the working folder. Env is the whole environment; nothing is inherited.
	Dir string
	Env []string
	// Timeout is the most the script may take; 0 means [DefaultTimeout].
	Timeout time.Duration
}

// Result is what came of a script. It belongs to the receiver.
type Result struct {
	Phase    string        `json:"phase"`
	Name     string        `json:"name,omitempty"`
	ExitCode int           `json:"exit_code"` // -1 when it did not exit by itself
	Output   []byte        `json:"output,omitempty"`
	Omitted  int64         `json:"omitted,omitempty"` // bytes dropped from the middle of Output
	Took     time.Duration `json:"took"`
	// Err says why the script failed, "" if it succeeded.
	Err string `json:"error,omitempty"`
}

// OK reports whether the script succeeded.
func (r Result) OK() bool { return r.Err == "" }

// Run runs the script to its end and never returns later than its timeout plus a grace of seconds. The end of
// ctx kills it.
func Run(ctx context.Context, c Cmd) Result {
	limit := c.Timeout
	if limit <= 0 {
		limit = DefaultTimeout
	}
	timed, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	var out tail
	cmd := exec.CommandContext(timed, "/bin/sh", "-c", c.Run)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = grace

	start := time.Now()
	err := cmd.Start()
	if err == nil {
		err = wait(cmd)
	}
	r := Result{Phase: c.Phase, Name: c.Name, ExitCode: -1, Took: time.Since(start)}
	if cmd.ProcessState != nil {
		r.ExitCode = cmd.ProcessState.ExitCode()
	}
	r.Output, r.Omitted = out.bytes()
	r.Err = explain(ctx, timed, limit, err)
	return r
}

// wait reaps the script and kills what it left behind in its group. A group outlives its leader only while it
// has members, so its number cannot have been given to a stranger before the kill.
func wait(cmd *exec.Cmd) error {
	pid := cmd.Process.Pid
	err := cmd.Wait()
	_ = killGroup(pid) // almost always nobody is left
	if errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success() {
		return errors.New("exited, but something it started held its output open and was killed")
	}
	return err
}

func killGroup(pid int) error { return syscall.Kill(-pid, syscall.SIGKILL) }

func explain(parent, timed context.Context, limit time.Duration, err error) string {
	switch {
	case err == nil:
		return ""
	case parent.Err() != nil:
		return fmt.Sprintf("interrupted: %v", context.Cause(parent))
	case timed.Err() != nil:
		return fmt.Sprintf("timed out after %v and was killed", limit)
	}
	return err.Error()
}
