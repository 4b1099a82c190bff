package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/murmuration/murmuration/agent"
	"github.com/murmuration/murmuration/scripts/bench/plane"
	"github.com/murmuration/murmuration/scripts/bench/rows"
)

// treeRecipe ships the folder SRC with one more file that tells the releases apart. The values are: service, folder,
// number.
const treeRecipe = `service: %s
build:
  command: mkdir out && cp -a "$SRC"/. out/ && echo "$NUMBER" > out/release-number
  output: out
  env: {SRC: %q, NUMBER: "%d"}
run: {kind: files}
strategy:
  steps: [{dial: 10000}]
  min_healthy: 1ms
`

// activation rolls two releases of the tree out to a real agent and takes it there and back in turns.
func activation(ctx context.Context, p *plane.Plane, host *plane.Host, name, src string, rounds int) ([]rows.Row, error) {
	var newest string
	for number := range 2 {
		id, err := p.Publish(ctx, name, map[string]string{"murmur.yaml": fmt.Sprintf(treeRecipe, name, src, number)})
		if err != nil {
			return nil, err
		}
		if err := p.Deploy(ctx, name, id); err != nil {
			return nil, err
		}
		newest = id
	}
	local, err := agent.NewLocal(agent.Config{Root: host.Root})
	if err != nil {
		return nil, err
	}
	var back, forth []float64
	for range rounds {
		start := time.Now()
		if err := local.Rollback(ctx, name, "", "bench"); err != nil {
			return nil, err
		}
		back = append(back, time.Since(start).Seconds())
		if now, err := current(host, name); err != nil || now == newest {
			return nil, errors.Join(fmt.Errorf("after a rollback current is %q", now), err)
		}
		start = time.Now()
		if err := forward(ctx, local, name, newest); err != nil {
			return nil, err
		}
		forth = append(forth, time.Since(start).Seconds())
		if now, err := current(host, name); err != nil || now != newest {
			return nil, errors.Join(fmt.Errorf("after an activation current is %q", now), err)
		}
	}
	return []rows.Row{
		rows.New(name, "murmur", "activate_s", median(forth), "s"),
		rows.New(name, "murmur", "activate_max_s", slices.Max(forth), "s"),
		rows.New(name, "murmur", "rollback_s", median(back), "s"),
		rows.New(name, "murmur", "rollback_max_s", slices.Max(back), "s"),
	}, nil
}

// forward ends the hold of a local rollback. The agent then activates what the control plane told it last, as it
// does with any order, and forward returns when it says that this runs.
func forward(ctx context.Context, local *agent.Local, service, release string) error {
	if err := local.Resume(ctx, service); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s, err := local.Status(ctx)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(s.Services, func(s agent.ServiceStatus) bool { return s.Service == service }); i >= 0 {
			if v := s.Services[i]; v.Active == release && v.State == agent.StateRunning {
				return nil
			}
		}
	}
	return fmt.Errorf("%s does not run release %s after a minute", service, release)
}

// current is the release that the service's link leads to.
func current(host *plane.Host, service string) (string, error) {
	to, err := os.Readlink(filepath.Join(host.Root, service, "current"))
	return filepath.Base(to), err
}
