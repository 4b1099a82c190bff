package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/client"
	"github.com/murmuration/murmuration/internal/freeport"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

// host is one demo host: a real agent process with a folder and a port of its own.
type host struct {
	name, rack, dc string
	root           string
	url            string // where its service answers
	mu             sync.Mutex
	cmd            *exec.Cmd
	exited         chan struct{}
}

// hosts is the demo fleet.
type hosts struct {
	binary string // murmur-agent
	dir    string
	client *client.Client
	seeder string
	all    []*host
}

// agentBinary finds murmur-agent: beside this binary, or on the PATH.
func agentBinary() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), "murmur-agent")
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	found, err := exec.LookPath("murmur-agent")
	if err != nil {
		return "", fmt.Errorf("murmur-agent is neither beside %s nor on the PATH: build both with `make build`", self)
	}
	return found, nil
}

// add joins one host to the fleet and starts its agent.
func (f *hosts) add(ctx context.Context, name, rack, dc string) (*host, error) {
	port, err := freeport.Loopback()
	if err != nil {
		return nil, err
	}
	h := &host{name: name, rack: rack, dc: dc, root: filepath.Join(f.dir, name), url: "http://" + port + "/"}
	if err := os.MkdirAll(h.root, 0o700); err != nil {
		return nil, err
	}
	token, err := f.client.Identity.CreateJoinToken(ctx, connect.NewRequest(&pb.CreateJoinTokenRequest{
		HostName: name, Labels: map[string]string{"rack": rack, "dc": dc},
	}))
	if err != nil {
		return nil, fmt.Errorf("join token for %s: %w", name, err)
	}
	join := exec.CommandContext(ctx, f.binary, "join", "--seeder", f.seeder, "--token", token.Msg.Token, "--root", h.root, "--name", name)
	if out, err := join.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s joins: %w\n%s", name, err, out)
	}
	// In the host's own file rather than flags: `murmur-agent status` and `rollback` read it too, with no agent running.
	conf := fmt.Sprintf("name: %s\nseeders: [%q]\nswarm: {listen: \"127.0.0.1:0\"}\nlisten: {hello/http: %q}\n", name, f.seeder, port)
	if err := os.WriteFile(filepath.Join(h.root, ".murmur", "agent.yaml"), []byte(conf), 0o600); err != nil {
		return nil, err
	}
	f.all = append(f.all, h)
	return h, h.start(f.binary)
}

// start runs the agent; its log goes to a file in the host's folder.
func (h *host) start(binary string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	log, err := os.OpenFile(filepath.Join(h.root, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(binary, "run", "--root", h.root)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: Ctrl-C on the terminal reaches the demo, which then stops the agents in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	h.cmd, h.exited = cmd, exited
	go func() {
		defer close(exited)
		_ = cmd.Wait()
	}()
	return nil
}

// signal sends a signal to the agent and waits until it is gone.
func (h *host) signal(ctx context.Context, sig os.Signal) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cmd == nil {
		return nil
	}
	if err := h.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-h.exited:
		h.cmd = nil
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stopAll drains every host, so that the services end too, and then ends the agents. An agent that just ends
// leaves its services running, as it should.
func (f *hosts) stopAll() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, h := range f.all {
		wg.Go(func() {
			f.drain(ctx, h)
			if h.signal(ctx, syscall.SIGTERM) != nil {
				_ = h.signal(context.Background(), syscall.SIGKILL)
			}
		})
	}
	wg.Wait()
}

// drain stops a host's services and waits until it says so, or ctx ends.
func (f *hosts) drain(ctx context.Context, h *host) {
	_, err := f.client.Fleet.UpdateHost(ctx, connect.NewRequest(&pb.UpdateHostRequest{Id: h.name, Drained: new(true)}))
	if err != nil {
		return // the control plane is gone; its agents are ended all the same
	}
	_ = until(ctx, h.name+" is drained", func() (bool, error) {
		resp, err := f.client.Fleet.GetHost(ctx, connect.NewRequest(&pb.GetHostRequest{Id: h.name}))
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
