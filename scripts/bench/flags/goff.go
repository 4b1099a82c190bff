package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/murmuration/murmuration/feature"
)

// The peer, by its module. It is built outside of this module, into out/bench/goff, once.
const (
	goffModule  = "github.com/thomaspoignant/go-feature-flag"
	goffVersion = "v1.55.2"
)

type relay struct {
	cmd     *exec.Cmd
	address string
}

// buildGoff returns the relay's binary.
func buildGoff(ctx context.Context) (string, error) {
	dir, err := filepath.Abs(filepath.Join("out", "bench", "goff-"+goffVersion))
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "relayproxy")
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	fmt.Fprintf(os.Stderr, "building %s %s; the first time takes minutes\n", goffModule, goffVersion)
	mod := fmt.Sprintf("module goffrelay\n\ngo 1.26\n\nrequire %s %s\n", goffModule, goffVersion)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644)); err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, "go", "build", "-mod=mod", "-o", binary, goffModule+"/cmd/relayproxy")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s@%s: %w\n%s", goffModule, goffVersion, err, out)
	}
	return binary, nil
}

// startGoff runs the relay with the same flags, as far as it can say them, and no other work: no export, no polling.
func startGoff(ctx context.Context, dir string, flags []feature.Flag) (*relay, error) {
	binary, err := buildGoff(ctx)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := ln.Addr().(*net.TCPAddr).Port
	if err := ln.Close(); err != nil {
		return nil, err
	}
	config, definitions := filepath.Join(dir, "goff.yaml"), filepath.Join(dir, "goff-flags.yaml")
	text := fmt.Sprintf("server: {mode: http, host: 127.0.0.1, port: %d}\npollingInterval: 3600000\nlogLevel: error\nhideBanner: true\nretrievers: [{kind: file, path: %q}]\n", port, definitions)
	if err := errors.Join(os.WriteFile(config, []byte(text), 0o600), os.WriteFile(definitions, []byte(goffFlags(flags)), 0o600)); err != nil {
		return nil, err
	}
	r := &relay{cmd: exec.Command(binary, "--config", config), address: fmt.Sprintf("127.0.0.1:%d", port)}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	return r, r.await(ctx)
}

// await waits until the relay answers the evaluation that is measured.
func (r *relay) await(ctx context.Context) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, err := askOver(target{name: "goff", address: r.address}, singlePath, time.Now().Add(10*time.Millisecond))
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			r.stop()
			return fmt.Errorf("the relay does not answer: %w", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (r *relay) stop() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait() // it says that it was killed
}

// goffFlags writes boolean flags in the relay's form.
func goffFlags(flags []feature.Flag) string {
	var b strings.Builder
	for _, f := range flags {
		on := float64(f.Dial) / 100
		fmt.Fprintf(&b, "%s:\n  variations: {\"on\": true, \"off\": false}\n", f.Key)
		if len(f.Rules) > 0 {
			b.WriteString("  targeting: [{query: 'country in [\"at\", \"de\", \"ch\"]', variation: \"on\"}]\n")
		}
		fmt.Fprintf(&b, "  defaultRule: {percentage: {\"on\": %g, \"off\": %g}}\n", on, 100-on)
	}
	return b.String()
}
