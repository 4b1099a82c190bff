package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/murmuration/murmuration/internal/freeport"
)

// patience bounds every wait: far beyond what anything takes, so that only a fault meets it.
const patience = 90 * time.Second

// eventually polls a condition that has no event to wait for. look returns what it saw, for the failure.
func eventually(t testing.TB, what string, look func() (ok bool, saw string)) {
	t.Helper()
	saw, ok := "", false
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ok, saw = look(); ok {
			return
		}
	}
	t.Fatalf("waited %v in vain until %s; last seen: %s", patience, what, saw)
}

// daemon is a process of ours that runs until it is stopped. Its output is appended to a file.
type daemon struct {
	name   string
	log    string
	cmd    *exec.Cmd
	exited chan struct{}
}

// launch starts a program; its end is the caller's to see to.
func launch(t testing.TB, log string, env []string, args ...string) *daemon {
	t.Helper()
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &daemon{name: strings.Join(args[:2], " "), log: log, cmd: cmd, exited: make(chan struct{})}
	go func() {
		defer close(d.exited)
		_ = cmd.Wait() // how it ended is not asked: tests kill it
	}()
	return d
}

// end sends a signal and waits until the process is gone.
func (d *daemon) end(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("signal %s: %v", d.name, err)
	}
	select {
	case <-d.exited:
	case <-time.After(patience):
		_ = d.cmd.Process.Kill()
		t.Fatalf("%s did not end after %v", d.name, sig)
	}
}

// text is everything the process and those before it wrote to the same file.
func (d *daemon) text(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(d.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// run runs a program to its end and returns its standard output; a failure fails the test with all it said.
func run(t testing.TB, env []string, args ...string) string {
	t.Helper()
	out, said, err := try(env, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, said)
	}
	return out
}

// try runs a program to its end.
func try(env []string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	return out.String(), said.String(), err
}

// folder makes a folder for a test below the suite's.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(base, strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())+"-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// freePort finds a loopback address that stays free until it is used.
func freePort(t testing.TB) string {
	t.Helper()
	addr, err := freeport.Loopback()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// write writes files, relative to dir, making their folders.
func write(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if bytes.HasPrefix(data, []byte("\x7fELF")) || bytes.HasPrefix(data, []byte("#!")) {
			mode = 0o755
		}
		if err := os.WriteFile(path, data, mode); err != nil {
			t.Fatal(err)
		}
	}
}

// logged returns the lines of a text that hold all the words.
func logged(text string, words ...string) []string {
	var found []string
next:
	for line := range strings.Lines(text) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		found = append(found, strings.TrimSpace(line))
	}
	return found
}

func lines(list []string) string {
	return fmt.Sprintf("%d lines:\n%s", len(list), strings.Join(list, "\n"))
}
