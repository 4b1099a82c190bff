// Package demo runs the whole system on one machine: a control plane, twelve real agent processes in four
// racks of two data centres, a small real HTTP service in a git repository of its own, and traffic that
// counts every answer.
//
// [Run] shows it to a person and says what to try. With Story it plays the same without a human, verifies
// every step and fails when one does not hold. Everything lives below one folder; everything started is stopped.
package demo

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/murmuration/murmuration/cmd/murmur/internal/builder"
	"github.com/murmuration/murmuration/cmd/murmur/internal/up"
	"github.com/murmuration/murmuration/internal/client"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

// Config says how the demo runs.
type Config struct {
	// Dir holds everything. Empty means a temporary folder that is removed at the end.
	Dir string
	// Hosts is how many agents there are, in four racks. Default 12.
	Hosts int
	// Story plays and verifies the story, then stops. JSON prints it for machines.
	Story, JSON bool
	// SDK is a checkout of Murmuration, which the sample service imports. Default: where this program was built.
	SDK string
	// Real is a folder to deploy besides the sample service, for example a toolchain's tree; see realTree.
	Real           string
	Stdout, Stderr io.Writer
	Log            *slog.Logger
}

var errStory = errors.New("the story failed")

// demo is a running demo.
type demo struct {
	cfg    Config
	ctx    context.Context // ends with the demo; for the traffic
	plane  *up.Plane
	client *client.Client
	stored client.Context
	hosts  *hosts
	repo   *repo
	load   *load
	report *reporter
}

// Run runs the demo until ctx ends, or until the story does.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Hosts == 0 {
		cfg.Hosts = 12
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cleanup, err := cfg.folder()
	if err != nil {
		return err
	}
	defer cleanup()
	d := &demo{cfg: cfg, ctx: ctx, load: newLoad(), report: &reporter{w: cfg.Stdout, json: cfg.JSON}}
	defer d.stop()
	if err := d.start(ctx); err != nil {
		return err
	}
	if cfg.Story {
		return d.play(ctx, d.extra())
	}
	return d.show(ctx)
}

// folder makes the demo's folder, and returns what removes a temporary one. A demo that failed keeps it.
func (c *Config) folder() (cleanup func(), err error) {
	if c.Dir != "" {
		c.Dir, err = filepath.Abs(c.Dir)
		if err != nil {
			return nil, err
		}
		return func() {}, os.MkdirAll(c.Dir, 0o700)
	}
	c.Dir, err = os.MkdirTemp("", "murmur-demo-")
	return func() { os.RemoveAll(c.Dir) }, err
}

// start brings everything up and reports it as the first two steps.
func (d *demo) start(ctx context.Context) error {
	for _, st := range []struct {
		name string
		run  func(context.Context) (string, error)
	}{{"control plane", d.startPlane}, {"hosts join", d.startHosts}, {"repository and hooks", d.startRepo}} {
		begun := time.Now()
		detail, err := st.run(ctx)
		if err != nil {
			d.report.print(Result{Step: st.name, Seconds: round(time.Since(begun)), Detail: err.Error()})
			return fmt.Errorf("%s: %w", st.name, err)
		}
		d.report.print(Result{Step: st.name, OK: true, Seconds: round(time.Since(begun)), Detail: detail})
	}
	return nil
}

func (d *demo) startPlane(ctx context.Context) (string, error) {
	// Ctrl-C ends ctx; the plane stays until the hosts are drained, see stop.
	plane, err := up.Start(context.WithoutCancel(ctx), up.Config{Dir: filepath.Join(d.cfg.Dir, "control"), Log: d.cfg.Log, LostAfter: 5 * time.Second})
	if err != nil {
		return "", err
	}
	d.plane = plane
	d.stored, d.client, err = up.LogIn(ctx, plane)
	if err != nil {
		return "", err
	}
	return "etcd, seeder and API at " + plane.URL(), d.storeContext()
}

// storeContext lets the command line of the person watching reach the demo, through MURMUR_CONFIG.
func (d *demo) storeContext() error {
	cfg, err := client.LoadConfig(d.configPath())
	if err != nil {
		return err
	}
	cfg.Set("demo", d.stored)
	return cfg.Save()
}

func (d *demo) configPath() string { return filepath.Join(d.cfg.Dir, "config.json") }

func (d *demo) startHosts(ctx context.Context) (string, error) {
	binary, err := agentBinary()
	if err != nil {
		return "", err
	}
	d.hosts = &hosts{binary: binary, dir: filepath.Join(d.cfg.Dir, "hosts"), client: d.client, seeder: d.plane.URL()}
	for i := range d.cfg.Hosts {
		rack := i % 4
		if _, err := d.hosts.add(ctx, fmt.Sprintf("host-%02d", i+1), fmt.Sprintf("r%d", rack+1), string(rune('a'+rack/2))); err != nil {
			return "", err
		}
	}
	err = until(ctx, "every host is attached", func() (bool, error) {
		resp, err := d.client.Fleet.ListHosts(ctx, connect.NewRequest(&pb.ListHostsRequest{}))
		if err != nil {
			return false, err
		}
		attached := 0
		for _, h := range resp.Msg.Hosts {
			if h.Connected {
				attached++
			}
		}
		return attached >= d.cfg.Hosts, nil
	})
	return fmt.Sprintf("%d agents in 4 racks of 2 data centres attached", d.cfg.Hosts), err
}

// startRepo makes the repositories, trusts a builder key and installs the hooks.
func (d *demo) startRepo(ctx context.Context) (string, error) {
	state := filepath.Join(d.cfg.Dir, "builder")
	key, err := builder.Key(state)
	if err != nil {
		return "", err
	}
	_, err = d.client.Identity.AddBuilder(ctx, connect.NewRequest(&pb.AddBuilderRequest{Builder: &pb.Builder{
		Name: "demo", PublicKey: key.Public(), NotAfter: timestamppb.New(time.Now().Add(30 * 24 * time.Hour)),
	}}))
	if err != nil {
		return "", fmt.Errorf("trust the builder %s: %w", hex.EncodeToString(key.Public()), err)
	}
	if d.cfg.SDK == "" {
		if d.cfg.SDK, err = sdkDir(); err != nil {
			return "", err
		}
	}
	flags, err := d.startFlags(ctx)
	if err != nil {
		return "", err
	}
	if d.repo, err = newRepo(ctx, d.cfg.Dir, d.cfg.SDK, flags); err != nil {
		return "", err
	}
	if err := d.repo.installHooks(ctx, state, d.stored); err != nil {
		return "", err
	}
	return "post-receive installed in " + d.repo.bare, nil
}

// stop ends what was started, in reverse.
func (d *demo) stop() {
	d.load.stop()
	if d.hosts != nil {
		d.hosts.stopAll()
	}
	if d.client != nil {
		d.client.Close()
	}
	if d.plane != nil {
		d.plane.Close()
	}
}

// show deploys the first version and leaves the rest to the person watching.
func (d *demo) show(ctx context.Context) error {
	s := &story{demo: d}
	for _, st := range steps()[:2] {
		begun := time.Now()
		detail, err := st.run(s, ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", st.name, err)
		}
		d.report.print(Result{Step: st.name, OK: true, Seconds: round(time.Since(begun)), Detail: detail})
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	fmt.Fprintf(d.cfg.Stdout, prompts, d.configPath(), filepath.Dir(self), d.repo.clone, d.hosts.all[0].url)
	d.tally(ctx)
	return nil
}

// tally prints what the traffic hears, every ten seconds, until ctx ends.
func (d *demo) tally(ctx context.Context) {
	ticks := time.NewTicker(10 * time.Second)
	defer ticks.Stop()
	for last := d.load.mark(); ; last = d.load.mark() {
		select {
		case <-ctx.Done():
			fmt.Fprintln(d.cfg.Stdout, "\nstopping everything")
			return
		case <-ticks.C:
			n := d.load.since(last)
			fmt.Fprintf(d.cfg.Stdout, "%s  %d requests answered, %d failed; hosts say: %s\n", time.Now().Format("15:04:05"), n.ok, n.failed, d.load.says())
		}
	}
}

// prompts are what a person can try. The values are: configuration, bin folder, clone, a host's URL.
const prompts = `
The fleet is up. In a second terminal:

  export MURMUR_CONFIG=%s
  export PATH=%s:$PATH

  murmur host list                              # twelve hosts in four racks
  murmur service show hello

Ship a change:
  cd %s
  sed -i 's/version = "v1"/version = "v2"/' main.go && git commit -qam 'Say v2' && git push origin main
  murmur rollout start hello --watch            # shows the plan, asks, then canary and all
  curl %s

Ship a bad one, and watch it caught:
  sed -i 's/healthy = true/healthy = false/' main.go && git commit -qam 'Break it' && git push origin main
  murmur rollout start hello --watch --yes
  murmur service show hello                     # locked, with the reason
  murmur service unlock hello

Turn a feature (the answers say *sparkle*), then kill it:
  murmur flag turn hello.sparkle 50%%            # half of the hosts
  murmur flag kill hello.sparkle --reason "it glitters"
  murmur flag restore hello.sparkle

At 4 am:
  murmur service rollback hello
  murmur fleet stop --reason "something is wrong"
  murmur fleet lift
  murmur audit list

Kill any murmur-agent with -9, or this whole process: the services go on. Ctrl-C stops everything.

`
