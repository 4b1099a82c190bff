package runner

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/murmuration/murmuration/release"
)

// socket is one listening socket the agent holds. The descriptor is a bare number on purpose: as an os.File it
// would be in the runtime's poller, which would wake the agent for every connection of the service.
type socket struct {
	Name   string `json:"name"`
	Listen string `json:"listen"` // as asked for
	Addr   string `json:"addr"`   // as bound
	Inode  uint64 `json:"inode"`  // finds it again in the process that has it
	fd     int
}

// openSocket binds and listens. The address may have port 0.
func openSocket(ctx context.Context, p release.Port) (socket, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", p.Listen)
	if err != nil {
		return socket{}, fmt.Errorf("open port %q: %w", p.Name, err)
	}
	defer l.Close() // the duplicate below keeps the socket open
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return socket{}, fmt.Errorf("open port %q: %w", p.Name, err)
	}
	fd, dupErr := -1, error(nil)
	if err := raw.Control(func(s uintptr) { fd, dupErr = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return socket{}, fmt.Errorf("open port %q: %w", p.Name, err)
	}
	if dupErr != nil {
		return socket{}, fmt.Errorf("open port %q: duplicate: %w", p.Name, dupErr)
	}
	s := socket{Name: p.Name, Listen: p.Listen, Addr: l.Addr().String(), fd: fd}
	if s.Inode, err = inodeOf(fd); err != nil {
		_ = unix.Close(fd)
		return socket{}, fmt.Errorf("open port %q: %w", p.Name, err)
	}
	return s, nil
}

func inodeOf(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("stat socket: %w", err)
	}
	return st.Ino, nil
}

// reclaim fetches the socket out of the process that has it. The receiver's fd is set on success.
func (s *socket) reclaim(p *proc) error {
	theirs, err := findSocket(p.pid, s.Inode)
	if err != nil {
		return err
	}
	fd := -1
	err = p.control(func(pidfd int) (err error) {
		fd, err = unix.PidfdGetfd(pidfd, theirs, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("fetch port %q from process %d: %w", s.Name, p.pid, err)
	}
	unix.CloseOnExec(fd)
	if ino, err := inodeOf(fd); err != nil || ino != s.Inode {
		_ = unix.Close(fd)
		return fmt.Errorf("fetch port %q from process %d: it is another socket now", s.Name, p.pid)
	}
	if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on != 1 {
		_ = unix.Close(fd)
		return fmt.Errorf("fetch port %q from process %d: it does not listen any more", s.Name, p.pid)
	}
	s.fd = fd
	return nil
}

// findSocket looks for a socket among a process's descriptors, whose numbers it may have changed.
func findSocket(pid int, inode uint64) (int, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := readNames(dir)
	if err != nil {
		return 0, fmt.Errorf("list descriptors of process %d: %w", pid, err)
	}
	want := "socket:[" + strconv.FormatUint(inode, 10) + "]"
	buf := make([]byte, 64)
	for _, name := range names {
		n, err := syscall.Readlink(dir+"/"+name, buf)
		if err == nil && string(buf[:n]) == want {
			return strconv.Atoi(name)
		}
	}
	return 0, fmt.Errorf("process %d no longer has the socket", pid)
}

// sameListen reports whether a held socket serves the port as the recipe has it now.
func (s socket) sameListen(p release.Port) bool {
	if s.Name != p.Name {
		return false
	}
	if s.Listen == p.Listen {
		return true
	}
	bound, err := netip.ParseAddrPort(s.Addr)
	return err == nil && strings.EqualFold(bound.String(), p.Listen)
}
