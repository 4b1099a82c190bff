package up

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/murmuration/murmuration/flagd"
	"github.com/murmuration/murmuration/internal/etcdstore"
	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"
)

// flagRoutes are the paths of the flag server at the API's address: all it answers but health and metrics, which are
// the seeder's there.
func flagRoutes(h http.Handler) map[string]http.Handler {
	routes := map[string]http.Handler{}
	for _, path := range []string{
		"/" + murmurv1connect.FlagServiceName + "/", "/v1/flags/", "/v1/snapshot", "/v1/stream", "/v1/streams/", "/v1/usage", "/ofrep/",
	} {
		routes[path] = h
	}
	return routes
}

// openFlags makes the flag server of a whole control plane.
func (p *Plane) openFlags() error {
	var err error
	p.flags, err = flagd.New(flagd.Config{
		Store: p.store, Authority: p.authority, ID: p.cfg.ID + "-flagd", Dir: filepath.Join(p.cfg.Dir, "flagd"),
		Listen: p.cfg.FlagListen, Names: p.cfg.Names, Log: p.cfg.Log,
	})
	return err
}

// FlagURL is where services read flags.
func (p *Plane) FlagURL() string {
	if addr := p.flags.Addr(); addr != "" {
		return "https://" + addr
	}
	return p.URL()
}

// FlagsConfig is one flag server beside a control plane. Dir and Etcd are needed.
type FlagsConfig struct {
	// Dir holds the disk copy of the flags, with which the server starts while etcd is away.
	Dir string
	// ID names this server, unique in the fleet. Default "flagd-1".
	ID string
	// Listen is the address to serve at. Default: loopback, any port. Names are more names for the certificate.
	Listen string
	Names  []string
	// Etcd lists the endpoints of the cluster; EtcdTLS is for one with mutual TLS.
	Etcd    []string
	EtcdTLS *tls.Config
	// CA is the fleet's CA file, with its key, as the other servers have it. Default: Dir/ca.pem.
	CA string
	// MaxStreams bounds the event streams open at once; 0 is flagd's default.
	MaxStreams int
	Log        *slog.Logger
}

// RunFlags serves flags until ctx ends. It needs etcd neither to start nor to go on: without it, it answers what it knew
// last. Listening is told the base URL as soon as it is known.
func RunFlags(ctx context.Context, cfg FlagsConfig, listening func(url string)) (err error) {
	if cfg.ID == "" {
		cfg.ID = "flagd-1"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.CA == "" {
		cfg.CA = filepath.Join(cfg.Dir, "ca.pem")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return err
	}
	ca, err := identity.LoadCA(cfg.CA)
	if err != nil {
		return fmt.Errorf("the fleet's CA (copy it from a server of the control plane): %w", err)
	}
	store, err := etcdstore.Open(ctx, etcdstore.Config{
		Endpoints: cfg.Etcd, TLS: cfg.EtcdTLS, Logger: cfg.Log, Lazy: true,
		DialTimeout: time.Second, // without etcd, how long the disk copy waits to be served
	})
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	authority, err := identity.New(identity.Config{Store: store, CA: ca, Log: cfg.Log})
	if err != nil {
		return err
	}
	server, err := flagd.New(flagd.Config{
		Store: store, Authority: authority, ID: cfg.ID, Dir: cfg.Dir, Listen: cfg.Listen, Names: cfg.Names, MaxStreams: cfg.MaxStreams, Log: cfg.Log,
	})
	if err != nil {
		return err
	}
	listening("https://" + server.Addr())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return initAuthority(ctx, authority, cfg.Log) })
	g.Go(func() error { return authority.Run(ctx) })
	g.Go(func() error { return server.Run(ctx) })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// initAuthority checks that this server is of the fleet whose store it uses, as soon as the store answers.
func initAuthority(ctx context.Context, a *identity.Authority, log *slog.Logger) error {
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		err := a.Init(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, record.ErrUnavailable) {
			return err
		}
		log.Warn("the store does not answer; flags are served from the disk copy meanwhile", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}
