package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// markEnv is the variable that carries an instance's random mark.
const markEnv = "MURMUR_INSTANCE"

// proc is one process, our child or adopted, held by a pidfd: the number cannot come to mean another process.
type proc struct {
	pid     int
	pidfd   *os.File // in the runtime's poller, so waiting for the end takes no thread
	child   bool
	release string
	mark    string
	started time.Time

	exited chan struct{} // closed when it has ended and was reaped
	how    string        // how it ended; read after exited
}

// open holds the process by a pidfd and begins to wait for its end.
func open(pid int, child bool) (*proc, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd of process %d: %w", pid, err)
	}
	return &proc{
		pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd"), child: child,
		started: time.Now(), exited: make(chan struct{}),
	}, nil
}

// control calls fn with the pidfd, unless it was closed already.
func (p *proc) control(fn func(fd int) error) error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var fnErr error
	if err := conn.Control(func(fd uintptr) { fnErr = fn(int(fd)) }); err != nil {
		return err
	}
	return fnErr
}

// signal sends sig to the process itself. That it is over already is no error worth reporting: exited says so.
func (p *proc) signal(sig unix.Signal) {
	_ = p.control(func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
}

// watch waits for the end of the process, kills what is left of its group and reaps it.
func (p *proc) watch() {
	defer close(p.exited)
	conn, err := p.pidfd.SyscallConn()
	if err == nil {
		err = conn.Read(over)
	}
	if err != nil { // closed by detach
		p.how = "no longer watched"
		return
	}
	// Still a zombie, so its number, which is also its group's, is taken: only its own children can be hit.
	_ = unix.Kill(-p.pid, unix.SIGKILL)
	p.how = p.reap()
	_ = p.pidfd.Close()
}

// over reports whether the process of a pidfd has ended. The descriptor is readable from then on.
func over(pidfd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n == 1 || err != nil && !errors.Is(err, unix.EINTR)
}

func (p *proc) reap() string {
	if !p.child {
		return "ended (started by an earlier agent: exit status unknown)"
	}
	var st syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(p.pid, &st, 0, nil); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if st.Signaled() {
		return fmt.Sprintf("ended by signal %q", st.Signal().String())
	}
	return fmt.Sprintf("exited with status %d", st.ExitStatus())
}

// stop asks the process to end and kills its group when limit has passed or ctx has ended. It returns when
// the process is gone.
func (p *proc) stop(ctx context.Context, limit time.Duration) {
	p.signal(unix.SIGTERM)
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-p.exited:
		return
	case <-t.C:
	case <-ctx.Done():
	}
	p.signal(unix.SIGKILL)
	<-p.exited
}

func (p *proc) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// startTicks is when a process started, in clock ticks since boot, and whether it is alive (not a zombie).
// The field is the 22nd of /proc/PID/stat, see proc_pid_stat(5).
func startTicks(pid int) (ticks uint64, live bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	_, rest, ok := bytes.Cut(b[max(0, bytes.LastIndexByte(b, ')')):], []byte(") ")) // the name may hold anything
	f := strings.Fields(string(rest))
	if !ok || len(f) < 20 {
		return 0, false
	}
	ticks, err = strconv.ParseUint(f[19], 10, 64)
	return ticks, err == nil && f[0] != "Z" && f[0] != "X"
}

// bootID changes at every boot of the host: process ids of another boot mean nothing.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// marked finds the leaders of sessions whose environment carries a mark for this root and service, by mark.
func marked(root, service string) map[string]int {
	found := map[string]int{}
	names, err := readNames("/proc")
	if err != nil {
		return found
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if sid, err := unix.Getsid(pid); err != nil || sid != pid {
			continue
		}
		env, err := os.ReadFile("/proc/" + name + "/environ")
		if err != nil {
			continue
		}
		vars := strings.Split(string(env), "\x00")
		if lookup(vars, "MURMUR_ROOT") == root && lookup(vars, "MURMUR_SERVICE") == service {
			if mark := lookup(vars, markEnv); mark != "" {
				found[mark] = pid
			}
		}
	}
	return found
}

func lookup(env []string, key string) string {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, key+"="); ok {
			return v
		}
	}
	return ""
}

func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}
