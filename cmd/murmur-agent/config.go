package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
)

// config is agent.yaml. Every field may be left out; an unknown one is an error that names its line.
type config struct {
	// Name is for people; default the host's name. Labels place the host (rack, dc, role).
	Name   string            `yaml:"name,omitempty"`
	Labels map[string]string `yaml:"labels,omitempty"`
	// Seeders are base URLs of the control plane; default those told at join.
	Seeders []string    `yaml:"seeders,omitempty"`
	Swarm   swarmConfig `yaml:"swarm,omitempty"`
	// Listen overrides where ports of services listen: "shop/main": "10.0.0.7:8080".
	Listen map[string]string `yaml:"listen,omitempty"`
	// Metrics says where services' counters are, when not at /metrics of their first port.
	Metrics map[string]string `yaml:"metrics,omitempty"`
	// MinFreeMiB is what staging leaves free on the disk; default 64. KeepReleases default 3, StageAtOnce 2.
	MinFreeMiB   int64 `yaml:"min_free_mib,omitempty"`
	KeepReleases int   `yaml:"keep_releases,omitempty"`
	StageAtOnce  int   `yaml:"stage_at_once,omitempty"`
	// DeepDrift compares the contents of active releases at start, not only sizes and modes.
	DeepDrift bool `yaml:"deep_drift,omitempty"`
	// HTTP is a loopback address for /metrics, /healthz and /readyz; empty means none.
	HTTP string `yaml:"http,omitempty"`
	// Log is debug, info (default), warn or error; LogJSON writes JSON lines.
	Log     string `yaml:"log,omitempty"`
	LogJSON bool   `yaml:"log_json,omitempty"`
}

// swarmConfig is the part of agent.yaml about peers.
type swarmConfig struct {
	// Listen is where peers connect, default ":0"; Advertise what they are told, default this host's address on
	// the way to the seeder and the port listened on.
	Listen    string `yaml:"listen,omitempty"`
	Advertise string `yaml:"advertise,omitempty"`
	// UpMbit and DownMbit cap the host's rates over all torrents, in Mbit/s; 0 is no cap.
	UpMbit   float64 `yaml:"up_mbit,omitempty"`
	DownMbit float64 `yaml:"down_mbit,omitempty"`
	// Plaintext speaks to peers without TLS, for tools that know none. Anyone who reaches the port can then read
	// artifacts.
	Plaintext bool `yaml:"plaintext,omitempty"`
}

func configFile(root string) string { return filepath.Join(root, ".murmur", "agent.yaml") }

// loadConfig reads the file at path, or the one in the root when path is empty, where a missing one is no error.
func loadConfig(root, path string) (config, error) {
	var c config
	b, err := os.ReadFile(cmp.Or(path, configFile(root)))
	if path == "" && errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	return parseConfig(b)
}

func parseConfig(b []byte) (config, error) {
	var c config
	err := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(&c)
	if err != nil && !errors.Is(err, io.EOF) {
		return c, fmt.Errorf("configuration: %s", yaml.FormatError(err, false, true))
	}
	if c.HTTP != "" {
		host, _, err := net.SplitHostPort(c.HTTP)
		if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return c, fmt.Errorf("configuration: http %q must be a loopback address such as 127.0.0.1:7479", c.HTTP)
		}
	}
	if c.Swarm.UpMbit < 0 || c.Swarm.DownMbit < 0 || c.MinFreeMiB < 0 || c.KeepReleases < 0 || c.StageAtOnce < 0 {
		return c, errors.New("configuration: a rate or a count is negative")
	}
	return c, nil
}

// saveConfig writes agent.yaml unless there is one.
func saveConfig(root string, c config) error {
	path := configFile(root)
	b, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// merge puts flags over the file.
func (c *config) merge(f flags) error {
	c.Name = cmp.Or(f.name, c.Name)
	if len(f.seeders) > 0 {
		c.Seeders = f.seeders
	}
	labels, err := pairs(f.labels)
	if err != nil {
		return err
	}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	maps.Copy(c.Labels, labels)
	listen, err := pairs(f.listen)
	if err != nil {
		return err
	}
	if c.Listen == nil {
		c.Listen = map[string]string{}
	}
	maps.Copy(c.Listen, listen)
	c.Swarm.Listen = cmp.Or(f.swarmListen, c.Swarm.Listen)
	c.Swarm.Advertise = cmp.Or(f.advertise, c.Swarm.Advertise)
	c.Swarm.UpMbit = cmp.Or(f.upMbit, c.Swarm.UpMbit)
	c.Swarm.DownMbit = cmp.Or(f.downMbit, c.Swarm.DownMbit)
	c.HTTP = cmp.Or(f.http, c.HTTP)
	c.Log = cmp.Or(f.log, c.Log)
	return nil
}

func pairs(list []string) (map[string]string, error) {
	m := map[string]string{}
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("%q is not of the form key=value", kv)
		}
		m[k] = v
	}
	return m, nil
}

func (c config) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cmp.Or(c.Log, "info"))); err != nil {
		return nil, fmt.Errorf("log level %q: use debug, info, warn or error", c.Log)
	}
	opts := &slog.HandlerOptions{Level: level}
	if c.LogJSON {
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return slog.New(slog.NewTextHandler(w, opts)), nil
}
