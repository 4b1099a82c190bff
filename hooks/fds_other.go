//go:build unix && !linux

package hooks

import "syscall"

// closeOnExec keeps every descriptor from the first on from the processes started after it.
func closeOnExec(first int) {
	for fd := first; fd < 256; fd++ {
		syscall.CloseOnExec(fd)
	}
}
