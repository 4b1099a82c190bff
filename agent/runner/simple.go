package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/murmuration/murmuration/agent/script"
	"github.com/murmuration/murmuration/internal/durable"
)

// basic is the status every runner without a process of its own keeps.
type basic struct {
	mu     sync.Mutex
	spec   Spec
	status Status
}

func (b *basic) set(spec Spec, running bool, detail string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spec = spec
	b.status = Status{Running: running, Release: spec.Release, Detail: detail, Addrs: map[string]string{}}
	for _, p := range spec.Ports {
		b.status.Addrs[p.Name] = p.Listen
	}
}

func (b *basic) get() (Spec, Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.spec, b.status
}

// Status implements [Runner].
func (b *basic) Status() Status {
	_, s := b.get()
	return s
}

// Detach implements [Runner]; there is nothing to let go of.
func (b *basic) Detach() {}

// Files runs nothing: to be in place is all a release of files does.
type Files struct{ basic }

// Start implements [Runner].
func (f *Files) Start(_ context.Context, spec Spec) error {
	f.set(spec, true, "")
	return nil
}

// Stop implements [Runner]; files stay where they are.
func (f *Files) Stop(context.Context) error {
	spec, _ := f.get()
	f.set(spec, false, "")
	return nil
}

// Adopt implements [Runner].
func (f *Files) Adopt(ctx context.Context, spec Spec) (bool, error) {
	return true, f.Start(ctx, spec)
}

// Commands runs a service through shell commands of its recipe, in the release's folder. A start command must
// leave the service in a session of its own: what stays in the command's process group is killed when it ends.
type Commands struct {
	basic
	root *os.Root
}

// NewCommands returns a runner that keeps its record in root, which stays the caller's.
func NewCommands(root *os.Root) *Commands { return &Commands{root: root} }

// bootFile holds the boot during which the start command ran.
const bootFile = "commands.boot"

// Start implements [Runner]. It runs the restart command if there is one and something runs, otherwise the old
// release's stop and the new one's start. A stop command that fails does not keep the new release from starting:
// a broken old script must not block its own replacement.
func (c *Commands) Start(ctx context.Context, spec Spec) error {
	old, status := c.get()
	command, name := spec.Run.Start, "start"
	if spec.Run.Restart != "" && (status.Running || spec.Run.Start == "") {
		command, name = spec.Run.Restart, "restart"
	} else if status.Running {
		_ = c.run(ctx, old, old.Run.Stop, "stop")
	}
	if err := c.run(ctx, spec, command, name); err != nil {
		c.set(spec, false, err.Error())
		return fmt.Errorf("%w: %w", ErrStart, err)
	}
	if err := durable.WriteFile(c.root, bootFile, []byte(bootID()), 0o600); err != nil {
		return fmt.Errorf("record what runs: %w", err)
	}
	c.set(spec, true, "")
	return nil
}

// Stop implements [Runner].
func (c *Commands) Stop(ctx context.Context) error {
	spec, status := c.get()
	if !status.Running {
		return nil
	}
	err := c.run(ctx, spec, spec.Run.Stop, "stop")
	c.set(spec, false, "")
	return errors.Join(err, durable.Remove(c.root, bootFile))
}

// Adopt implements [Runner]. What was started during this boot counts as running; health checks say if it is.
func (c *Commands) Adopt(_ context.Context, spec Spec) (bool, error) {
	b, err := c.root.ReadFile(bootFile)
	if err != nil || string(b) != bootID() {
		return false, nil
	}
	c.set(spec, true, "")
	return true, nil
}

func (c *Commands) run(ctx context.Context, spec Spec, command, name string) error {
	if command == "" {
		return nil
	}
	r := script.Run(ctx, script.Cmd{
		Phase: "run", Name: name, Run: command, Dir: spec.Dir, Env: append(spec.Env, pairs(spec.Run.Env)...),
		Timeout: script.DefaultTimeout + cmp.Or(spec.Run.StopTimeout.Std(), 30*time.Second),
	})
	if !r.OK() {
		return fmt.Errorf("the recipe's %s command: %s: %s", name, r.Err, r.Output[max(0, len(r.Output)-1000):])
	}
	return nil
}

func pairs(m map[string]string) []string {
	var out []string
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	return out
}
