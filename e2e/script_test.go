package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestCommandLine runs the scripts of testdata/script over the real binaries, one after the other, against one
// control plane. Each script has a home, a configuration and a builder of its own.
//
// Besides testscript's own commands there are
//
//	until REGEXP CMD [ARG...]    run CMD until its output matches
//	exits CODE CMD [ARG...]      run CMD and expect that exit code
//	capture VAR CMD [ARG...]     run CMD and keep its trimmed output in $VAR
//	json CMD [ARG...]            run CMD and expect JSON, one value or one a line
func TestCommandLine(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	testscript.RunT(oneByOne{t}, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		Setup:              p.setup,
		RequireUniqueNames: true,
		Cmds:               map[string]func(*testscript.TestScript, bool, []string){"until": until, "exits": exits, "capture": capture, "json": isJSON},
	})
}

// oneByOne runs scripts in order: they share a fleet, and one of them stops all of it.
type oneByOne struct{ *testing.T }

func (o oneByOne) Parallel()     {}
func (o oneByOne) Verbose() bool { return testing.Verbose() }
func (o oneByOne) Run(name string, f func(testscript.T)) {
	o.T.Run(name, func(t *testing.T) { f(oneByOne{t}) })
}

// setup gives a script the admin's context and nothing of the machine's user.
func (p *plane) setup(e *testscript.Env) error {
	config, err := os.ReadFile(filepath.Join(p.dir, "config.json"))
	if err != nil {
		return err
	}
	password, err := os.ReadFile(filepath.Join(p.dir, "up", "admin-password"))
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"config.json": config, "password": password} {
		if err := os.WriteFile(filepath.Join(e.WorkDir, name), data, 0o600); err != nil {
			return err
		}
	}
	e.Vars = append(e.Vars, p.env()...)
	e.Setenv("HOME", e.WorkDir)
	e.Setenv("MURMUR_CONFIG", filepath.Join(e.WorkDir, "config.json"))
	e.Setenv("MURMUR_STATE", filepath.Join(e.WorkDir, "state"))
	e.Setenv("SERVER", p.url())
	e.Setenv("CA", filepath.Join(p.dir, "up", "ca.pem"))
	return nil
}

func need(ts *testscript.TestScript, neg bool, args []string, n int, usage string) {
	if neg || len(args) < n {
		ts.Fatalf("usage: %s", usage)
	}
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "until REGEXP CMD [ARG...]")
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	said := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		said = ts.ReadFile("stdout") + ts.ReadFile("stderr")
		if want.MatchString(said) {
			return
		}
		_ = err // a command that fails for now is run again
	}
	ts.Fatalf("%s never said %q; last:\n%s", strings.Join(args[1:], " "), args[0], said)
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "exits CODE CMD [ARG...]")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%s: %v", args[1], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s ended with %d, want %d:\n%s", strings.Join(args[1:], " "), got, want, ts.ReadFile("stdout")+ts.ReadFile("stderr"))
	}
}

func capture(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "capture VAR CMD [ARG...]")
	ts.Check(ts.Exec(args[1], args[2:]...))
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

func isJSON(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "json CMD [ARG...]")
	ts.Check(ts.Exec(args[0], args[1:]...))
	out := ts.ReadFile("stdout")
	values := 0
	for dec := json.NewDecoder(strings.NewReader(out)); dec.More(); values++ {
		var v any
		if err := dec.Decode(&v); err != nil {
			ts.Fatalf("%s printed no JSON: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	if values == 0 {
		ts.Fatalf("%s printed nothing", strings.Join(args, " "))
	}
	fmt.Fprintf(ts.Stdout(), "%d JSON values\n", values)
}
