package release

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The defaults of a recipe.
const (
	DefaultBuildTimeout  = Duration(15 * time.Minute)
	DefaultMaxOutput     = int64(4 << 30)
	DefaultStopTimeout   = Duration(30 * time.Second)
	DefaultScriptTimeout = Duration(60 * time.Second)

	DefaultHealthInterval  = Duration(500 * time.Millisecond)
	DefaultHealthTimeout   = Duration(2 * time.Second)
	DefaultHealthDeadline  = Duration(60 * time.Second)
	DefaultHealthSuccesses = 3
	DefaultHealthFailures  = 3
)

// WithDefaults returns r with every zero value that has a default filled in. r is not changed.
func (r Recipe) WithDefaults() Recipe {
	r.Build.Output = cmp.Or(r.Build.Output, ".")
	r.Build.Timeout = cmp.Or(r.Build.Timeout, DefaultBuildTimeout)
	r.Build.MaxOutput = cmp.Or(r.Build.MaxOutput, DefaultMaxOutput)
	r.Run.Kind = cmp.Or(r.Run.Kind, r.Run.guess())
	r.Run.StopTimeout = cmp.Or(r.Run.StopTimeout, DefaultStopTimeout)
	r.Health = slices.Clone(r.Health)
	for i, h := range r.Health {
		h.Interval = cmp.Or(h.Interval, DefaultHealthInterval)
		h.Timeout = cmp.Or(h.Timeout, DefaultHealthTimeout)
		h.Deadline = cmp.Or(h.Deadline, DefaultHealthDeadline)
		h.Successes = cmp.Or(h.Successes, DefaultHealthSuccesses)
		h.Failures = cmp.Or(h.Failures, DefaultHealthFailures)
		if h.Port == "" && strings.HasPrefix(h.HTTP, "/") && len(r.Ports) > 0 {
			h.Port = r.Ports[0].Name
		}
		r.Health[i] = h
	}
	r.Checks = Checks{Pre: scripts(r.Checks.Pre), Drain: scripts(r.Checks.Drain), Post: scripts(r.Checks.Post)}
	r.Strategy = r.Strategy.WithDefaults()
	return r
}

// guess picks the runner that the fields set imply; with none set a release is only files.
func (r Run) guess() Runner {
	switch {
	case r.Command != "":
		return RunProcess
	case r.Unit != "":
		return RunSystemd
	case r.Start != "" || r.Restart != "":
		return RunCommands
	}
	return RunFiles
}

func scripts(in []Script) []Script {
	out := slices.Clone(in)
	for i := range out {
		out[i].Timeout = cmp.Or(out[i].Timeout, DefaultScriptTimeout)
	}
	return out
}

// Validate reports everything wrong with r as joined [FieldError] values. A zero value that has a default is
// right.
func (r Recipe) Validate() error {
	f := newFields()
	r.validate(f)
	return f.err()
}

func (r Recipe) validate(f fields) {
	f.at("service").check(CheckService(r.Service))
	f.at("selector").check(checkLine(r.Selector, 4096))
	r.Build.validate(f.at("build"))
	r.Run.validate(f.at("run"))
	names := validatePorts(f.at("ports"), r.Ports)
	if len(r.Health) > 32 {
		f.at("health").fail("%d checks, the limit is 32", len(r.Health))
	}
	for i, h := range r.Health {
		h.validate(f.at("health").index(i), names)
	}
	validateScripts(f.at("checks.pre"), r.Checks.Pre)
	validateScripts(f.at("checks.drain"), r.Checks.Drain)
	validateScripts(f.at("checks.post"), r.Checks.Post)
	r.Strategy.validate(f.at("strategy"))
}

func (b Build) validate(f fields) {
	if b.Output != "" && b.Output != "." {
		f.at("output").check(CheckPath(path.Clean(b.Output)))
	}
	within(f.at("timeout"), b.Timeout, 24*time.Hour)
	if b.MaxOutput < 0 || b.MaxOutput > MaxArtifact {
		f.at("max_output").fail("%d is outside 0..%d bytes", b.MaxOutput, int64(MaxArtifact))
	}
	validateEnv(f.at("env"), b.Env)
	for i, name := range b.Pass {
		if !isEnvName(name) {
			f.at("pass").index(i).fail("%q is not a variable's name", name)
		}
	}
}

func (r Run) validate(f fields) {
	within(f.at("stop_timeout"), r.StopTimeout, time.Hour)
	validateEnv(f.at("env"), r.Env)
	need := func(name, value string) {
		if value == "" {
			f.at(name).fail("needed by kind %q", r.Kind)
		}
	}
	kind := cmp.Or(r.Kind, r.guess())
	switch kind {
	case RunProcess:
		need("command", r.Command)
		if strings.ContainsRune(r.Command, 0) {
			f.at("command").fail("holds a zero byte")
		}
	case RunSystemd:
		need("unit", r.Unit)
		if strings.ContainsAny(r.Unit, "/ \n\x00") {
			f.at("unit").fail("%q is not a unit's name", r.Unit)
		}
	case RunCommands:
		if r.Restart == "" {
			need("start", r.Start)
		}
	case RunFiles:
	default:
		f.at("kind").fail("%q; want %s, %s, %s or %s", r.Kind, RunProcess, RunSystemd, RunCommands, RunFiles)
		return
	}
	if kind != RunProcess && (r.Command != "" || len(r.Args) > 0) {
		f.at("command").fail("only kind %q has a command, this is %q", RunProcess, kind)
	}
}

func validatePorts(f fields, ports []Port) map[string]bool {
	if len(ports) > 64 {
		f.fail("%d ports, the limit is 64", len(ports))
	}
	names := make(map[string]bool, len(ports))
	for i, p := range ports {
		at := f.index(i)
		// sd_listen_fds_with_names(3) separates names by colons and limits them to 255 bytes.
		if p.Name == "" || len(p.Name) > 255 || strings.ContainsAny(p.Name, ": \n\x00") {
			at.at("name").fail("%q; want a short name without colons or spaces", p.Name)
		} else if names[p.Name] {
			at.at("name").fail("%q is used twice", p.Name)
		}
		names[p.Name] = true
		if !isListen(p.Listen) {
			at.at("listen").fail("%q is not host:port, :port or [v6]:port with a port from 0 to 65535", p.Listen)
		}
	}
	return names
}

// isListen accepts host:port. A host that holds colons stands in brackets.
func isListen(address string) bool {
	i := strings.LastIndexByte(address, ':')
	if i < 0 || len(address) > 300 || strings.ContainsAny(address, " \n\x00/") {
		return false
	}
	host := address[:i]
	if strings.HasPrefix(host, "[") != strings.HasSuffix(host, "]") ||
		strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		return false
	}
	_, err := strconv.ParseUint(address[i+1:], 10, 16)
	return err == nil
}

func (h Health) validate(f fields, ports map[string]bool) {
	set := 0
	for _, v := range []string{h.HTTP, h.TCP, h.Exec} {
		if v != "" {
			set++
		}
	}
	if set != 1 {
		f.fail("exactly one of http, tcp and exec must be set, not %d", set)
	}
	if h.HTTP != "" && h.HTTP[0] != '/' && !strings.HasPrefix(h.HTTP, "http://") && !strings.HasPrefix(h.HTTP, "https://") {
		f.at("http").fail("%q is neither a path such as /healthz nor a URL", h.HTTP)
	}
	if strings.HasPrefix(h.HTTP, "/") && h.Port == "" && len(ports) == 0 {
		f.at("http").fail("a path needs a port: add one under ports, or write a whole URL")
	}
	if h.Port != "" && !ports[h.Port] {
		f.at("port").fail("%q is not a name under ports", h.Port)
	}
	within(f.at("interval"), h.Interval, time.Hour)
	within(f.at("timeout"), h.Timeout, time.Hour)
	within(f.at("deadline"), h.Deadline, 24*time.Hour)
	for _, n := range []struct {
		name string
		n    int
	}{{"successes", h.Successes}, {"failures", h.Failures}} {
		if n.n < 0 || n.n > 1000 {
			f.at(n.name).fail("%d is outside 0..1000", n.n)
		}
	}
}

func validateScripts(f fields, scripts []Script) {
	if len(scripts) > 32 {
		f.fail("%d scripts, the limit is 32", len(scripts))
	}
	for i, s := range scripts {
		if strings.TrimSpace(s.Run) == "" {
			f.index(i).at("run").fail("empty; write the command to run")
		}
		within(f.index(i).at("timeout"), s.Timeout, 24*time.Hour)
	}
}

func validateEnv(f fields, env map[string]string) {
	for name, value := range env {
		if !isEnvName(name) || strings.ContainsRune(value, 0) {
			f.at(name).fail("not a variable a process can be given")
		}
	}
}

func isEnvName(name string) bool {
	return name != "" && !strings.ContainsAny(name, "=\x00\n ")
}

// within checks 0 <= d <= most.
func within(f fields, d Duration, most time.Duration) {
	if d < 0 || d.Std() > most {
		f.fail("%s is outside 0s..%s", d, most)
	}
}
