package hooks

import "golang.org/x/sys/unix"

// closeOnExec keeps every descriptor from the first on from the processes started after it: what git or a shell
// left open, too.
func closeOnExec(first int) {
	if unix.CloseRange(uint(first), 1<<31-1, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	for fd := first; fd < 256; fd++ { // before Linux 5.11
		unix.CloseOnExec(fd)
	}
}
