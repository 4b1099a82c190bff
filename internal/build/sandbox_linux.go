package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The rights a build gets below its own folders (landlock(7)): everything but making devices.
const (
	writeRights = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR |
		unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_SYM |
		unix.LANDLOCK_ACCESS_FS_REFER
	deviceRights = unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
	fileRights   = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	scopes       = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL

	// The ABI versions that brought what is used: version 1 can't move files between folders at all, which
	// compilers do, so it is not used.
	abiRefer, abiTruncate, abiScope = 2, 3, 6
)

// nullDevices may be written by every build.
func nullDevices() []string {
	return []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}
}

// confine restricts this thread, and whatever it executes, with Landlock. It returns what is in force.
func confine(spec sandboxSpec) (string, error) {
	// A Landlock domain belongs to a thread. execve from it makes it the whole process's.
	runtime.LockOSThread()
	abi, err := landlockABI()
	if err != nil {
		return "", err
	}
	rules, err := newRuleset(abi, len(spec.Hide) > 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(rules.fd)
	for _, dir := range spec.Write {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return "", fmt.Errorf("allow writing below %s: %w", dir, err)
		}
		if err := rules.allow(real, writeRights|unix.LANDLOCK_ACCESS_FS_TRUNCATE|unix.LANDLOCK_ACCESS_FS_READ_FILE); err != nil {
			return "", fmt.Errorf("allow writing below %s: %w", dir, err)
		}
	}
	for _, dev := range nullDevices() {
		if err := rules.allow(dev, fileRights); err != nil && !errors.Is(err, unix.ENOENT) {
			return "", fmt.Errorf("allow writing %s: %w", dev, err)
		}
	}
	if len(spec.Hide) > 0 {
		if err := rules.allowReading("/", resolved(spec.Hide)); err != nil {
			return "", fmt.Errorf("hide files: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return "", fmt.Errorf("give up new privileges: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(rules.fd), 0, 0); errno != 0 {
		return "", fmt.Errorf("landlock_restrict_self: %w", errno)
	}
	return fmt.Sprintf("Landlock version %d", abi), nil
}

func landlockABI() (int, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, fmt.Errorf("%w: it has no Landlock: %w", ErrNoSandbox, errno)
	}
	if int(abi) < abiRefer {
		return 0, fmt.Errorf("%w: its Landlock is version %d, %d is needed (Linux 5.19)", ErrNoSandbox, abi, abiRefer)
	}
	return int(abi), nil
}

// ruleset is a Landlock ruleset being filled.
type ruleset struct {
	fd int
	// handled are the rights that are refused unless a rule allows them.
	handled uint64
}

func newRuleset(abi int, reading bool) (*ruleset, error) {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: writeRights | deviceRights}
	if reading {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_READ_FILE
	}
	if abi >= abiTruncate {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	// An older kernel refuses a longer struct unless the rest is zero, which it then is.
	if abi >= abiScope {
		attr.Scoped = scopes
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return nil, fmt.Errorf("landlock_create_ruleset: %w", errno)
	}
	return &ruleset{fd: int(fd), handled: attr.Handled_access_fs}, nil
}

// allow grants rights on path, a file or a folder with all below it, as far as the ruleset handles them.
func (r *ruleset) allow(path string, rights uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= fileRights
	}
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights & r.handled, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(r.fd), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// allowReading grants reading below dir except below the hidden paths. Landlock only ever allows, so the
// folders on the way to a hidden path are walked and their other entries allowed one by one.
func (r *ruleset) allowReading(dir string, hidden []string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := filepath.Join(dir, e.Name())
		switch {
		case slices.Contains(hidden, p) || e.Type()&os.ModeSymlink != 0:
			// A link is judged by where it leads, so it needs no rule.
		case slices.ContainsFunc(hidden, func(h string) bool { return strings.HasPrefix(h, p+"/") }):
			if err := r.allowReading(p, hidden); err != nil {
				return err
			}
		default:
			if err := r.allow(p, unix.LANDLOCK_ACCESS_FS_READ_FILE); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("%s: %w", p, err)
			}
		}
	}
	return nil
}

// resolved returns absolute paths without links; what does not exist needs no hiding.
func resolved(paths []string) []string {
	var out []string
	for _, p := range paths {
		if abs, err := filepath.Abs(p); err == nil {
			if real, err := filepath.EvalSymlinks(abs); err == nil {
				out = append(out, real)
			}
		}
	}
	return out
}

// closeOnExec keeps every descriptor from the first on from the command: what a careless parent left open, too.
func closeOnExec(first int) {
	if unix.CloseRange(uint(first), 1<<31-1, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	for fd := first; fd < 256; fd++ { // before Linux 5.11
		unix.CloseOnExec(fd)
	}
}

// adoptOrphans makes this process the parent of every descendant whose own parent ends (PR_SET_CHILD_SUBREAPER),
// so that none gets away by daemonising.
func adoptOrphans() {
	// Fails only before Linux 3.4; then killing the process group is all that is left.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

// killOrphans kills this process's children, and so by and by all descendants, until none is left.
func killOrphans(grace time.Duration) (killed int, survived bool) {
	deadline := time.Now().Add(grace)
	for {
		for _, pid := range children() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		for {
			var ws unix.WaitStatus
			pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
			if err == unix.ECHILD {
				return killed, false
			}
			if err != nil || pid == 0 {
				break
			}
			if ws.Signaled() {
				killed++
			}
		}
		if time.Now().After(deadline) {
			return killed, true
		}
		// Nothing announces that a process was handed to this one, so look again shortly.
		time.Sleep(2 * time.Millisecond)
	}
}

// children lists the processes whose parent is this one.
func children() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parentOf(pid) == os.Getpid() {
			out = append(out, pid)
		}
	}
	return out
}

// parentOf reads the fourth field of /proc/PID/stat; the second, the name, may hold spaces and parentheses.
func parentOf(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}
