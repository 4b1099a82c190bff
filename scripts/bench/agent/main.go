// Command agent measures what an idle agent costs its host.
//
//	go run ./scripts/bench/agent [-bin bin] [-for 60s] [-settle 20s] [-out out/bench/agent.json]
//
// It runs the real binaries: a control plane and one agent attached to it over mutual TLS, with one service of kind
// "process" rolled out to it, so that the agent does all it does on a quiet day: it holds its session, offers the
// release to peers, checks the service's health and reads its counters every 5 s. The service is this program.
//
// Then it looks at /proc/PID twice. Rss_mib is VmRSS at the end and rss_anon_mib the part of it that is not the
// binary's pages; cpu_share is utime + stime over the time between in percent of one core, in steps of 10 ms of CPU
// time; wakeups_per_s are voluntary context switches of all threads; binary_mb is the size of the file in 10^6 bytes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/murmuration/murmuration/scripts/bench/plane"
	"github.com/murmuration/murmuration/scripts/bench/rows"
)

type options struct {
	bin, out     string
	settle, span time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder with murmur and murmur-agent")
	flag.StringVar(&o.out, "out", "out/bench/agent.json", "where to write the rows")
	flag.DurationVar(&o.settle, "settle", 20*time.Second, "how long to wait after the rollout")
	flag.DurationVar(&o.span, "for", time.Minute, "how long to look")
	serve := flag.Bool("serve", false, "be the service; the agent says so")
	flag.Parse()
	do := func() error { return run(ctx, o) }
	if *serve {
		do = func() error { return service(ctx) }
	}
	if err := do(); err != nil {
		slog.New(slog.NewTextHandler(os.Stderr, nil)).Error("bench agent", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "bench-agent-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p, err := plane.Start(ctx, o.bin, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	host, err := p.Join(ctx, "idle")
	if err != nil {
		return err
	}
	if err := deploy(ctx, p); err != nil {
		return err
	}
	if err := pause(ctx, o.settle); err != nil {
		return err
	}
	measured, err := idle(ctx, host.PID(), o)
	if err != nil {
		return err
	}
	return rows.Report(os.Stdout, append([]rows.Row{rows.First("go run ./scripts/bench/agent", 1)}, measured...), o.out)
}

// recipe makes a service of this program. The value is the path of its binary.
const recipe = `service: bench
build:
  command: mkdir out && cp "$SELF" out/service
  output: out
  env: {SELF: %q}
run: {kind: process, command: ./service, args: [-serve]}
ports: [{name: http, listen: "127.0.0.1:0"}]
health: [{http: /healthz}]
strategy:
  steps: [{dial: 10000}]
  min_healthy: 1s
`

func deploy(ctx context.Context, p *plane.Plane) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	release, err := p.Publish(ctx, "bench", map[string]string{"murmur.yaml": fmt.Sprintf(recipe, self)})
	if err != nil {
		return err
	}
	return p.Deploy(ctx, "bench", release)
}

// idle looks at a process twice and reports what it did in between.
func idle(ctx context.Context, pid int, o options) ([]rows.Row, error) {
	begun := time.Now()
	before, err := look(pid)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, o.span); err != nil {
		return nil, err
	}
	after, err := look(pid)
	if err != nil {
		return nil, err
	}
	took := time.Since(begun)
	binary, err := os.Stat(filepath.Join(o.bin, "murmur-agent"))
	if err != nil {
		return nil, err
	}
	row := func(metric string, value float64, unit string) rows.Row {
		return rows.New("idle", "murmur", metric, value, unit)
	}
	return []rows.Row{
		row("rss_mib", after.rss/(1<<20), "MiB"),
		row("rss_anon_mib", after.rssAnon/(1<<20), "MiB"),
		row("cpu_share", 100*(after.cpu-before.cpu).Seconds()/took.Seconds(), "percent"),
		row("wakeups_per_s", float64(after.wakeups-before.wakeups)/took.Seconds(), "1/s"),
		row("threads", float64(after.threads), "threads"),
		row("binary_mb", float64(binary.Size())/1e6, "MB"),
		row("observed_s", took.Seconds(), "s"),
	}, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
