package hooks

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// maxDrainLog is the size over which the drainer's own log is started anew, in bytes.
const maxDrainLog = 4 << 20

// spawnDetached starts a process that nothing of ours or git's ends: a session of its own, no terminal, no open
// file of ours (git waits until the last holder of its pipes is gone), none of git's variables, in folder dir.
// What it prints is added to the file log.
func spawnDetached(binary string, args []string, dir, log string) error {
	if err := os.MkdirAll(filepath.Dir(log), 0o750); err != nil {
		return fmt.Errorf("start the builder: %w", err)
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if info, err := os.Stat(log); err == nil && info.Size() > maxDrainLog {
		flags |= os.O_TRUNC
	}
	out, err := os.OpenFile(log, flags, 0o640)
	if err != nil {
		return fmt.Errorf("start the builder: %w", err)
	}
	defer out.Close()
	closeOnExec(3)
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = withoutGit(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the builder: %w", err)
	}
	return cmd.Process.Release()
}

// withoutGit removes what describes the push that is going on.
func withoutGit(env []string) []string {
	var out []string
	for _, kv := range env {
		if !strings.HasPrefix(kv, "GIT_") {
			out = append(out, kv)
		}
	}
	return out
}
