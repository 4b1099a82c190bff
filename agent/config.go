package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"github.com/murmuration/murmuration/agent/runner"
	"github.com/murmuration/murmuration/release"
)

// Verifier decides whom to trust about releases; internal/identity has one.
type Verifier interface {
	// VerifyRelease returns who signed the release, or why nobody who may did.
	VerifyRelease(m release.Manifest, manifestBytes, envelope []byte) (keyID string, err error)
}

// TrustStore takes new trust bundles. It verifies and stores them, and refuses what is older than what it has.
type TrustStore interface {
	UpdateTrust(envelope []byte) (changed bool, err error)
}

// Swarm brings artifacts here and offers them to others. Methods are safe for concurrent use.
type Swarm interface {
	// Fetch brings the artifact to a.Path and returns when it is whole and on disk; it is then offered to others.
	Fetch(ctx context.Context, a Artifact, progress func(Progress)) error
	// Seed offers a file that is there already.
	Seed(ctx context.Context, a Artifact) error
	// AddPeers says where else it can be had. Drop stops offering it.
	AddPeers(infohash string, peers []Peer)
	Drop(infohash string)
}

// Artifact is one torrent and the file it belongs to.
type Artifact struct {
	Info     []byte // bencoded info dictionary
	Infohash string // its SHA-1, hex
	Path     string // absolute
	Size     int64  // what the signed manifest says
	// Fallback writes the bytes [off, off+n) to w, from a seeder over HTTPS; nil if there is no such way.
	Fallback func(ctx context.Context, off, n int64, w io.Writer) error
	// Reuse writes what is known from older artifacts and returns where; nil if there are none.
	Reuse func(ctx context.Context, w io.WriterAt) ([]Range, error)
}

// Range is the bytes [Off, Off+Len) of a file. Peer is somebody who may hold pieces.
type (
	Range struct{ Off, Len int64 }
	Peer  struct{ Name, Addr string }
)

// Progress counts bytes of a fetch, by where they came from.
type Progress struct {
	Done, Total, FromPeers, FromSeeder, FromDisk, Fallback int64
}

// Config says what an agent is. Zero values work but for Root, and for what a host that is attached to a
// control plane needs: HostID, Seeders, Client, Verifier and Swarm.
type Config struct {
	// Root is the folder that holds everything; it is made if missing.
	Root string
	// HostID is the identity in the host's certificate; Name is for people.
	HostID, Name string
	Version      string
	Labels       map[string]string
	// SwarmAddress is host:port where this host's peers reach it.
	SwarmAddress string
	// Seeders are base URLs of the control plane; one is used at a time.
	Seeders []string
	// Client speaks HTTP/2 with the host's certificate, to seeders.
	Client *http.Client
	// Listen overrides where ports of services listen, by "service/port".
	Listen map[string]string
	// Metrics are addresses of services' own metrics in the Prometheus text format, by service. Those of services
	// not listed are asked at /metrics of their first port.
	Metrics map[string]string
	// MinFree is how many bytes staging leaves free on the disk. Default 64 MiB.
	MinFree int64
	// KeepReleases is how many releases of a service stay on disk at least. Default 3.
	KeepReleases int
	// StageAtOnce is how many releases are staged at the same time. Default 2.
	StageAtOnce int
	// DriftEvery is how often the files of active releases are compared with what they were. Default 5 min.
	DriftEvery time.Duration
	// DeepDrift compares contents at start, not only sizes and modes.
	DeepDrift bool

	Verifier Verifier
	Trust    TrustStore // nil: bundles are ignored
	Swarm    Swarm
	Logger   *slog.Logger
	// Quiet, when set, is called in a goroutine of its own each time the last staging under way has ended: the
	// moment to give back the memory that fetching and unpacking took.
	Quiet func()

	// Tuning bounds the process runner. Bus connects to systemd; nil means the host's.
	Tuning runner.Tuning
	Bus    func(context.Context) (runner.Bus, error)

	// step, set by tests, is called before and after every durable change.
	step func(point string)
	// freeSpace, set by tests, replaces the file system's answer.
	freeSpace func(path string) (free, total int64, err error)
}

// ErrConfig is wrapped by every complaint about a [Config].
var ErrConfig = errors.New("configuration")

func (c Config) withDefaults() (Config, error) {
	if c.Root == "" {
		return c, fmt.Errorf("%w: root is empty: say which folder the agent may use", ErrConfig)
	}
	root, err := filepath.Abs(c.Root)
	if err != nil {
		return c, fmt.Errorf("%w: root %q: %w", ErrConfig, c.Root, err)
	}
	c.Root = root
	c.MinFree = cmp.Or(c.MinFree, 64<<20)
	c.KeepReleases = cmp.Or(c.KeepReleases, 3)
	c.StageAtOnce = cmp.Or(c.StageAtOnce, 2)
	c.DriftEvery = cmp.Or(c.DriftEvery, 5*time.Minute)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Bus == nil {
		c.Bus = runner.DialBus
	}
	return c, nil
}

// attached reports whether the configuration lets the agent talk to a control plane, and what is missing.
func (c Config) attached() error {
	for name, missing := range map[string]bool{
		"seeders": len(c.Seeders) == 0, "client": c.Client == nil, "host id": c.HostID == "",
		"verifier": c.Verifier == nil, "swarm": c.Swarm == nil,
	} {
		if missing {
			return fmt.Errorf("%w: %s missing", ErrConfig, name)
		}
	}
	return nil
}
