package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// sandboxMarker is the first argument that makes this program a supervisor or a confined child of a build.
const sandboxMarker = "__murmur_build_sandbox"

// statusFD is where supervisor and child write [sandboxStatus] lines to: the first of exec.Cmd.ExtraFiles.
const statusFD = 3

// sandboxEnv is set for the supervisor only. A builder that finds it in its own environment was started by a
// program whose main does not call [MaybeSandboxChild]; it refuses, or it would start itself without end.
const sandboxEnv = "MURMUR_BUILD_SANDBOX"

// killGrace is how long the supervisor tries to end everything a build started.
const killGrace = 10 * time.Second

// sandboxSpec is what the builder asks of the supervisor and the supervisor of the confined child.
type sandboxSpec struct {
	Dir     string   `json:"dir"`
	Command string   `json:"command"`
	Write   []string `json:"write"`
	Hide    []string `json:"hide,omitempty"`
	// FileSize bounds any one file the command writes, in bytes.
	FileSize int64       `json:"file_size,omitempty"`
	Confine  Confinement `json:"confine,omitempty"`
}

// sandboxStatus is one line of JSON on the status pipe. Each line carries one of its parts.
type sandboxStatus struct {
	// Confined says how the command is confined, Unconfined why it is not.
	Confined   string `json:"confined,omitempty"`
	Unconfined string `json:"unconfined,omitempty"`
	// Error is why the command was not started.
	Error string `json:"error,omitempty"`
	// Exit is the last line: how the command ended, and how many processes it left behind, now killed.
	Exit *sandboxExit `json:"exit,omitempty"`
}

type sandboxExit struct {
	Code   int    `json:"code"`
	Signal string `json:"signal,omitempty"`
	Left   int    `json:"left,omitempty"`
	// Survived says that killing what was left did not succeed in time.
	Survived bool `json:"survived,omitempty"`
}

// errNotWanted stands for [ConfineNever].
var errNotWanted = errors.New("the operator switched it off")

// MaybeSandboxChild must be called first in main of every program that builds, with os.Args. When this process
// was started by a [Builder] as the supervisor or the confined child of a build, it does that and never
// returns; otherwise it returns at once.
func MaybeSandboxChild(args []string) {
	if len(args) != 4 || args[1] != sandboxMarker {
		return
	}
	_ = os.Unsetenv(sandboxEnv) // fails only for malformed names
	status := os.NewFile(statusFD, "status")
	var spec sandboxSpec
	if err := json.Unmarshal([]byte(args[3]), &spec); err != nil {
		tell(status, sandboxStatus{Error: err.Error()})
		os.Exit(1)
	}
	switch args[2] {
	case "supervise":
		os.Exit(supervise(spec, args[3], os.Stdin, status))
	case "confine":
		// On success the command takes this process's place.
		tell(status, sandboxStatus{Error: confineAndExec(spec, status).Error()})
	}
	os.Exit(1)
}

func tell(status io.Writer, s sandboxStatus) {
	line, err := json.Marshal(s)
	if err == nil {
		_, err = status.Write(append(line, '\n'))
	}
	if err != nil {
		// The builder is gone; nobody is left to tell.
		os.Exit(1)
	}
}

// supervise runs the confined command until it ends or the lifeline (the builder's end of a pipe) does, then
// ends everything the command started, and tells how it went.
func supervise(spec sandboxSpec, encoded string, lifeline io.Reader, status *os.File) int {
	adoptOrphans()
	exe, err := os.Executable()
	if err != nil {
		tell(status, sandboxStatus{Error: err.Error()})
		return 1
	}
	cmd := exec.Command(exe, sandboxMarker, "confine", encoded)
	cmd.Dir, cmd.Stdout, cmd.Stderr = spec.Dir, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{status}
	// A session of its own: one process group to signal, and no terminal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		tell(status, sandboxStatus{Error: fmt.Sprintf("start the build command: %v", err)})
		return 1
	}
	go func() {
		_, _ = io.Copy(io.Discard, lifeline)
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}()
	err = cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	left, survived := killOrphans(killGrace)
	exit := exitOf(err)
	exit.Left, exit.Survived = left, survived
	tell(status, sandboxStatus{Exit: &exit})
	return 0
}

func exitOf(err error) sandboxExit {
	e, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		if err != nil {
			return sandboxExit{Code: -1}
		}
		return sandboxExit{}
	}
	if ws, ok := e.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return sandboxExit{Code: 128 + int(ws.Signal()), Signal: ws.Signal().String()}
	}
	return sandboxExit{Code: e.ExitCode()}
}

// confineAndExec limits this process and turns it into the build command. It returns only on failure.
func confineAndExec(spec sandboxSpec, status *os.File) error {
	closeOnExec(statusFD)
	syscall.Umask(0o022)
	how, err := "", errNotWanted
	if spec.Confine != ConfineNever {
		how, err = confine(spec)
	}
	switch {
	case err == nil:
		tell(status, sandboxStatus{Confined: how})
	case errors.Is(err, errNotWanted) || spec.Confine == ConfineIfPossible && errors.Is(err, ErrNoSandbox):
		tell(status, sandboxStatus{Unconfined: err.Error()})
	default:
		return fmt.Errorf("confine the build: %w", err)
	}
	if err := limitFiles(spec.FileSize); err != nil {
		return err
	}
	err = syscall.Exec("/bin/sh", []string{"/bin/sh", "-c", spec.Command}, os.Environ())
	return fmt.Errorf("start /bin/sh: %w", err)
}

// limitFiles bounds the size of every file the command writes and switches core dumps off.
func limitFiles(size int64) error {
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("switch core dumps off: %w", err)
	}
	if size <= 0 {
		return nil
	}
	limit := syscall.Rlimit{Cur: uint64(size), Max: uint64(size)}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return fmt.Errorf("limit the size of files: %w", err)
	}
	return nil
}
