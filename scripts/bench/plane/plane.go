// Package plane runs the real binaries for benchmarks: one control plane (`murmur up`) below a folder of its own,
// hosts (`murmur-agent run`) joined to it, and releases built by the real builder. Everything listens on loopback
// and ends with [Plane.Close]. It is for measuring programs only; a Plane is not safe for concurrent use.
package plane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/client"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

// patience bounds every wait for a process to do what it always does.
const patience = 2 * time.Minute

// Plane is a control plane and its hosts.
type Plane struct {
	bin, dir, url string
	client        *client.Client
	control       *process
	hosts         []*Host
}

// Host is one agent.
type Host struct {
	Name, Root string
	agent      *process
}

// PID is the agent's process.
func (h *Host) PID() int { return h.agent.cmd.Process.Pid }

// Start runs a control plane below dir with the binaries in bin and returns when it answers.
func Start(ctx context.Context, bin, dir string) (*Plane, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	p := &Plane{bin: bin, dir: dir}
	if p.control, err = p.launch("murmur", "up", "--dir", filepath.Join(dir, "up"), "--listen", "127.0.0.1:0", "--swarm-listen", "127.0.0.1:0", "--flagd-listen", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if err := p.connect(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// connect waits for the first log-in and trusts the builder of this folder.
func (p *Plane) connect(ctx context.Context) error {
	if err := await(ctx, "the control plane answers", func() (bool, error) {
		return strings.Contains(p.control.text(), "logged in as"), p.control.alive()
	}); err != nil {
		return err
	}
	stored, err := client.Load(func(name string) string {
		if name == client.EnvConfig {
			return p.config()
		}
		return ""
	})
	if err != nil {
		return err
	}
	if p.client, err = client.New(stored); err != nil {
		return err
	}
	p.url = p.client.URL()
	var key struct {
		PublicKey string `json:"public_key"`
	}
	if err := p.murmurJSON(ctx, &key, "builder", "key"); err != nil {
		return err
	}
	_, err = p.murmur(ctx, "builder", "add", "bench", "--public-key", key.PublicKey)
	return err
}

func (p *Plane) config() string { return filepath.Join(p.dir, "config.json") }

// PID is the control plane's process.
func (p *Plane) PID() int { return p.control.cmd.Process.Pid }

// Join makes a host of the fleet, starts its agent and returns when it is attached.
func (p *Plane) Join(ctx context.Context, name string) (*Host, error) {
	token, err := p.murmur(ctx, "join-token", "create", "--label", "dc=a,rack="+name)
	if err != nil {
		return nil, err
	}
	h := &Host{Name: name, Root: filepath.Join(p.dir, name)}
	if _, err := p.run(ctx, "murmur-agent", "join", "--seeder", p.url, "--token", strings.TrimSpace(token), "--root", h.Root, "--name", name); err != nil {
		return nil, err
	}
	if h.agent, err = p.launch("murmur-agent", "run", "--root", h.Root, "--swarm-listen", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	p.hosts = append(p.hosts, h)
	return h, await(ctx, name+" is attached", func() (bool, error) {
		resp, err := p.client.Fleet.GetHost(ctx, connect.NewRequest(&pb.GetHostRequest{Id: name}))
		return err == nil && resp.Msg.Host.GetConnected(), h.agent.alive()
	})
}

// Publish commits files to the service's repository, builds and publishes the commit, and returns the release's id.
// The files must include murmur.yaml.
func (p *Plane) Publish(ctx context.Context, service string, files map[string]string) (string, error) {
	repo := filepath.Join(p.dir, "repo-"+service)
	if _, err := os.Stat(repo); errors.Is(err, os.ErrNotExist) {
		if _, err := p.run(ctx, "git", "init", "--quiet", "--initial-branch=main", repo); err != nil {
			return "", err
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(repo, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	for _, args := range [][]string{{"add", "-A"}, {"commit", "--quiet", "--allow-empty", "-m", "Bench"}} {
		if _, err := p.run(ctx, "git", append([]string{"-C", repo}, args...)...); err != nil {
			return "", err
		}
	}
	var built struct {
		ReleaseID string `json:"release_id"`
	}
	err := p.murmurJSON(ctx, &built, "release", "build", repo)
	return built.ReleaseID, err
}

// Deploy rolls a release out and returns when the rollout is complete.
func (p *Plane) Deploy(ctx context.Context, service, release string) error {
	started, err := p.client.Rollouts.StartRollout(ctx, connect.NewRequest(&pb.StartRolloutRequest{Service: service, Release: release, Reason: "bench"}))
	if err != nil {
		return fmt.Errorf("start a rollout of %s: %w", service, err)
	}
	return await(ctx, "the rollout of "+service+" is complete", func() (bool, error) {
		resp, err := p.client.Rollouts.GetRollout(ctx, connect.NewRequest(&pb.GetRolloutRequest{Service: service, Id: started.Msg.Rollout.Id}))
		if err != nil {
			return false, err
		}
		switch r := resp.Msg.Rollout; r.Phase {
		case "complete":
			return true, nil
		case "rolled_back", "failed", "aborted":
			return false, fmt.Errorf("rollout %s is %s: %s", r.Id, r.Phase, r.Reason)
		}
		return false, nil
	})
}

// Close drains the hosts, so that their services end, and then ends every process.
func (p *Plane) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var errs []error
	for _, h := range p.hosts {
		errs = append(errs, p.drain(ctx, h), h.agent.end())
	}
	if p.client != nil {
		p.client.Close()
	}
	return errors.Join(append(errs, p.control.end())...)
}

func (p *Plane) drain(ctx context.Context, h *Host) error {
	if h.agent.alive() != nil {
		return nil
	}
	if _, err := p.client.Fleet.UpdateHost(ctx, connect.NewRequest(&pb.UpdateHostRequest{Id: h.Name, Drained: new(true)})); err != nil {
		return fmt.Errorf("drain %s: %w", h.Name, err)
	}
	return await(ctx, h.Name+" is drained", func() (bool, error) {
		resp, err := p.client.Fleet.GetHost(ctx, connect.NewRequest(&pb.GetHostRequest{Id: h.Name}))
		if err != nil {
			return false, err
		}
		for _, s := range resp.Msg.Host.Services {
			if s.State == "running" {
				return false, nil
			}
		}
		return true, nil
	})
}

// murmur runs one command line of the operator.
func (p *Plane) murmur(ctx context.Context, args ...string) (string, error) {
	return p.run(ctx, "murmur", args...)
}

func (p *Plane) murmurJSON(ctx context.Context, into any, args ...string) error {
	out, err := p.murmur(ctx, append(args, "--json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

// run runs a program to its end and returns its standard output.
func (p *Plane) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, p.path(name), args...)
	var out, said bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env(), &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, args[0], err, out.String(), said.String())
	}
	return out.String(), nil
}

// path finds our own binaries in bin, and others as always.
func (p *Plane) path(name string) string {
	if strings.HasPrefix(name, "murmur") {
		return filepath.Join(p.bin, name)
	}
	return name
}

// env keeps the processes apart from the user's own configuration.
func (p *Plane) env() []string {
	return append(os.Environ(),
		client.EnvConfig+"="+p.config(), "MURMUR_STATE="+filepath.Join(p.dir, "builder"), "HOME="+p.dir,
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_AUTHOR_NAME=Bench", "GIT_AUTHOR_EMAIL=bench@example.com",
		"GIT_COMMITTER_NAME=Bench", "GIT_COMMITTER_EMAIL=bench@example.com")
}

// process is a program that runs until it is ended; what it says goes to a file.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
}

func (p *Plane) launch(name string, args ...string) (*process, error) {
	f, err := os.CreateTemp(p.dir, name+"-*.log")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command(p.path(name), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env(), f, f
	// A group of its own: Ctrl-C reaches the benchmark, which then ends everything in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (`make build` builds it)", err)
	}
	r := &process{cmd: cmd, log: f.Name(), exited: make(chan struct{})}
	go func() {
		defer close(r.exited)
		_ = cmd.Wait() // how it ended is asked of its log
	}()
	return r, nil
}

func (r *process) text() string {
	b, err := os.ReadFile(r.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// alive returns what the process said when it has ended.
func (r *process) alive() error {
	select {
	case <-r.exited:
		return fmt.Errorf("%s ended:\n%s", filepath.Base(r.cmd.Path), r.text())
	default:
		return nil
	}
}

func (r *process) end() error {
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-r.exited:
		return nil
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("%s did not end within %v", r.cmd.Path, patience), r.cmd.Process.Kill())
	}
}

// await polls until look says yes, an error or too late.
func await(ctx context.Context, what string, look func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("waited %v in vain until %s", patience, what))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := look(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
