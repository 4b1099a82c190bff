package runner

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	logDir  = "log"
	logFile = "log/service.log"
	logOld  = "log/service.log.1"
)

// shim sets LISTEN_PID, which must be the service's own process id, and becomes the service.
const shim = `export LISTEN_PID=$$; exec "$0" "$@"`

func newMark() string { return rand.Text() }

// argv is the command line, its first word a file that exists and can be executed.
func (s Spec) argv() ([]string, error) {
	path, err := s.resolve()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStart, err)
	}
	argv := append([]string{path}, s.Run.Args...)
	if len(s.Ports) > 0 {
		argv = append([]string{"/bin/sh", "-c", shim}, argv...)
	}
	return argv, nil
}

// resolve finds the recipe's command: a path is inside the release or absolute, a bare word is looked for in
// the release and then in the usual folders.
func (s Spec) resolve() (string, error) {
	name := s.Run.Command
	if name == "" {
		return "", errors.New("the recipe's run.command is empty")
	}
	if filepath.IsAbs(name) {
		return exec.LookPath(name)
	}
	dir, err := os.OpenRoot(s.Dir)
	if err != nil {
		return "", fmt.Errorf("open the release: %w", err)
	}
	defer dir.Close()
	info, err := dir.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !strings.Contains(name, "/"):
		return exec.LookPath(name)
	case err != nil:
		return "", fmt.Errorf("the recipe's run.command %q: %w", name, err)
	case info.IsDir() || info.Mode()&0o111 == 0:
		return "", fmt.Errorf("the recipe's run.command %q is not an executable file (mode %v)", name, info.Mode())
	}
	return filepath.Join(s.Dir, name), nil
}

// launch forks the process. What is on record before is everything that may be running, so that an agent that
// dies at any point here leaves nothing the next one cannot find.
func (p *Process) launch(spec Spec, argv []string, socks []socket, old *proc) (*proc, error) {
	mark := p.mark()
	if err := p.saveErr(socks, old, &proc{release: spec.Release, mark: mark}); err != nil {
		return nil, err
	}
	out, err := p.openLog()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer null.Close()

	files := []uintptr{null.Fd(), out.Fd(), out.Fd()}
	for _, s := range socks {
		files = append(files, uintptr(s.fd))
	}
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Dir: spec.Dir, Env: spec.environ(mark, socks), Files: files,
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", argv[0], err)
	}
	next, err := open(pid, true)
	if err != nil {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		return nil, err
	}
	next.release, next.mark = spec.Release, mark
	go next.watch()
	if err := p.saveErr(socks, old, next); err != nil {
		next.signal(syscall.SIGKILL)
		<-next.exited
		return nil, err
	}
	return next, nil
}

func (s Spec) environ(mark string, socks []socket) []string {
	env := append([]string{}, s.Env...)
	for k, v := range s.Run.Env {
		env = append(env, k+"="+v)
	}
	env = append(env, markEnv+"="+mark)
	if len(socks) == 0 {
		return env
	}
	names := make([]string, len(socks))
	for i, s := range socks {
		names[i] = s.Name
	}
	return append(env, "LISTEN_FDS="+strconv.Itoa(len(socks)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
}

// openLog opens the service's log for appending.
func (p *Process) openLog() (*os.File, error) {
	if err := p.root.MkdirAll(logDir, 0o750); err != nil {
		return nil, fmt.Errorf("make the log's folder: %w", err)
	}
	f, err := p.root.OpenFile(logFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return f, nil
}

// rotate turns the log over when it has grown too large. The process holds the file open for appending, so it
// is copied and cut: what is written between the two is lost, and the process need not know.
func (p *Process) rotate() error {
	info, err := p.root.Stat(logFile)
	if err != nil || info.Size() <= p.tune.MaxLog {
		return err
	}
	src, err := p.root.OpenFile(logFile, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	// Of a flood only the end is kept, so two files never hold more than twice the limit.
	if _, err := src.Seek(-p.tune.MaxLog, io.SeekEnd); err != nil {
		return err
	}
	dst, err := p.root.OpenFile(logOld, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(dst, src, p.tune.MaxLog); err != nil && !errors.Is(err, io.EOF) {
		return errors.Join(err, dst.Close(), src.Truncate(0))
	}
	return errors.Join(dst.Close(), src.Truncate(0))
}

// logTail is the last few lines of the log, for messages.
func (p *Process) logTail() string {
	const most = 2 << 10
	f, err := p.root.Open(logFile)
	if err != nil {
		return "(none)"
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, most))
	if s := strings.TrimSpace(string(b)); s != "" {
		return strings.ToValidUTF8(s, "?")
	}
	return "(empty)"
}
