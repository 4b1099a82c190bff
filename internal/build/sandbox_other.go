//go:build unix && !linux

package build

import (
	"fmt"
	"syscall"
	"time"
)

// confine has no Landlock to use here.
func confine(sandboxSpec) (string, error) {
	return "", fmt.Errorf("%w: only Linux has Landlock", ErrNoSandbox)
}

// closeOnExec keeps every descriptor from the first on from the command.
func closeOnExec(first int) {
	for fd := first; fd < 256; fd++ {
		syscall.CloseOnExec(fd)
	}
}

// adoptOrphans does nothing here: only the build's process group is killed.
func adoptOrphans() {}

// killOrphans finds nothing here: the build's process group was killed before.
func killOrphans(time.Duration) (killed int, survived bool) { return 0, false }
