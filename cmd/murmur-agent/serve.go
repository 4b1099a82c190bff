package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/murmuration/murmuration/agent"
	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/swarm"
	"github.com/murmuration/murmuration/internal/version"
)

func identityDir(root string) string { return filepath.Join(root, ".murmur", "identity") }

// serve wires an agent up and runs it until ctx ends.
func serve(ctx context.Context, root string, cfg config, stderr io.Writer) error {
	debug.SetGCPercent(50) // a host's memory belongs to its services
	log, err := cfg.logger(stderr)
	if err != nil {
		return err
	}
	store, err := identity.OpenHost(identityDir(root))
	if err != nil {
		return err
	}
	if len(cfg.Seeders) == 0 {
		cfg.Seeders = store.Seeders()
	}
	engine, err := newEngine(root, cfg, store, log)
	if err != nil {
		return err
	}
	defer engine.Close()
	name := cfg.Name
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return fmt.Errorf("host name: %w", err)
		}
	}
	a, err := agent.New(agent.Config{
		Root: root, HostID: store.HostID(), Name: name, Version: version.Version, Labels: cfg.Labels,
		SwarmAddress: advertise(ctx, cfg, engine.Addr()), Seeders: cfg.Seeders, Client: store.HTTPClient(),
		Listen: cfg.Listen, Metrics: cfg.Metrics, MinFree: cfg.MinFreeMiB << 20, KeepReleases: cfg.KeepReleases,
		StageAtOnce: cfg.StageAtOnce, DeepDrift: cfg.DeepDrift,
		Verifier: store.Trust(), Trust: store, Swarm: swarmAdapter{engine}, Logger: log,
		Quiet: debug.FreeOSMemory,
	})
	if err != nil {
		return err
	}
	log.Info("agent starts", "host", store.HostID(), "version", version.Version, "swarm", engine.Addr(), "seeders", cfg.Seeders)
	g, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	g.Go(func() error { defer cancel(); return a.Run(ctx) })
	g.Go(func() error { return renew(ctx, store, cfg.Seeders, log) })
	if cfg.HTTP != "" {
		g.Go(func() error { return serveHTTP(ctx, cfg.HTTP, a) })
	}
	return g.Wait()
}

func newEngine(root string, cfg config, store *identity.HostStore, log *slog.Logger) (*swarm.Engine, error) {
	const bytesPerMbit = 1e6 / 8
	sc := swarm.Config{
		Dir: filepath.Join(root, ".murmur", "swarm"), Listen: cmp.Or(cfg.Swarm.Listen, ":0"), Name: store.HostID(),
		UpRate: int64(cfg.Swarm.UpMbit * bytesPerMbit), DownRate: int64(cfg.Swarm.DownMbit * bytesPerMbit), Logger: log,
	}
	if !cfg.Swarm.Plaintext {
		sc.ServerTLS = func() (*tls.Config, error) {
			return identity.PeerServerConfig(store.Roots(), store.Certificate, nil), nil
		}
		sc.ClientTLS = func() (*tls.Config, error) {
			return identity.PeerClientConfig(store.Roots(), store.Certificate, "", nil), nil
		}
		sc.PeerName = func(cs tls.ConnectionState) (string, error) {
			p, err := identity.PeerOfConn(cs)
			return p.Name(), err
		}
	}
	return swarm.New(sc)
}

// advertise is the address peers are told: the one configured, or the address this host has on the way to its
// seeder with the port the engine listens on.
func advertise(ctx context.Context, cfg config, listening net.Addr) string {
	if cfg.Swarm.Advertise != "" {
		return cfg.Swarm.Advertise
	}
	host, port, err := net.SplitHostPort(listening.String())
	if err != nil {
		return listening.String()
	}
	if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
		return listening.String()
	}
	for _, s := range cfg.Seeders {
		u, err := url.Parse(s)
		if err != nil {
			continue
		}
		// Nothing is sent: connecting a datagram socket only asks the routing table.
		c, err := new(net.Dialer).DialContext(ctx, "udp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")))
		if err != nil {
			continue
		}
		local, _, err := net.SplitHostPort(c.LocalAddr().String())
		if err := errors.Join(err, c.Close()); err == nil {
			return net.JoinHostPort(local, port)
		}
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// renew replaces the host's certificate in good time, at a moment of its own so that a fleet does not ask at once.
func renew(ctx context.Context, store *identity.HostStore, seeders []string, log *slog.Logger) error {
	const jitter, again = 6 * time.Hour, 10 * time.Minute
	wait := max(time.Until(store.RenewAt()), 0) + rand.N(again)
	if wait > jitter {
		wait += rand.N(jitter)
	}
	for {
		// Looked at every hour: a timer of weeks does not count the time a machine was suspended.
		t := time.NewTimer(min(wait, time.Hour))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		if wait = time.Until(store.RenewAt()); wait > 0 {
			continue
		}
		wait = again
		for _, s := range seeders {
			if err := store.Renew(ctx, s); err != nil {
				log.Error("renew the certificate", "seeder", s, "again_in", again, "err", err)
				continue
			}
			log.Info("certificate renewed", "next", store.RenewAt())
			wait = time.Until(store.RenewAt()) + rand.N(jitter)
			break
		}
	}
}

func serveHTTP(ctx context.Context, addr string, a *agent.Agent) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", a.Metrics)
	mux.HandleFunc("GET /healthz", a.Healthy)
	mux.HandleFunc("GET /readyz", a.Ready)
	srv := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("listen on %s: %w", addr, err)
	}
	return nil
}
