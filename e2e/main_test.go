// Package e2e tests the two real binaries from outside: the command line by scripts, the whole story, and what
// happens when processes are killed, disks fill up and identities are copied.
//
// Every process listens on loopback and lives below one temporary folder. The suite ends by looking for
// processes that still live there: one that does fails it.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// base is the folder below which everything happens; bin is where the binaries are. [TestMain] sets both.
var base, bin string

func TestMain(m *testing.M) {
	code, err := suite(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// suite builds the binaries once, runs the tests, and sees to it that nothing is left.
func suite(m *testing.M) (code int, err error) {
	if base, err = os.MkdirTemp("", "murmur-e2e-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(base)
	bin = filepath.Join(base, "bin")
	build := exec.Command("go", "build", "-tags", "nosqlite,noboltdb", "-o", bin+"/", "../cmd/murmur", "../cmd/murmur-agent")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the binaries: %w\n%s", err, out)
	}
	if err := os.Setenv("PATH", bin+":"+os.Getenv("PATH")); err != nil {
		return 1, err
	}
	code = m.Run()
	if left := processesBelow(base); len(left) > 0 {
		endAll(left)
		return 1, fmt.Errorf("processes outlived the tests: %v", left)
	}
	return code, nil
}

// process is one that runs a program below the suite's folder.
type process struct {
	pid  int
	what string
}

// processesBelow lists the processes whose program or working folder is below dir.
func processesBelow(dir string) []process {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var found []process
	for _, p := range procs {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || pid == os.Getpid() {
			continue
		}
		for _, link := range []string{"exe", "cwd"} {
			if to, err := os.Readlink(filepath.Join(p, link)); err == nil && strings.HasPrefix(to, dir+"/") {
				found = append(found, process{pid, to})
				break
			}
		}
	}
	return found
}

// endAll kills processes that [processesBelow] found, each by its id.
func endAll(list []process) {
	for _, p := range list {
		_ = syscall.Kill(p.pid, syscall.SIGKILL) // it may have ended by itself
	}
}
