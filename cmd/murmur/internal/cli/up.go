package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/murmuration/murmuration/cmd/murmur/internal/demo"
	"github.com/murmuration/murmuration/cmd/murmur/internal/up"
)

// upCmd is a whole control plane on this machine.
func (a *app) upCmd() *cobra.Command {
	var cfg up.Config
	var level string
	cmd := &cobra.Command{
		Use: "up", Short: "Run a whole control plane here: embedded etcd, seeder, flagd, generated credentials", Args: cobra.NoArgs,
		Long: "Run a whole control plane in one process. Everything is generated at the first start and kept below one\n" +
			"folder; the command stores a context, so that every other murmur command works at once.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Log, err = a.logger(level); err != nil {
				return err
			}
			return a.serve(cmd.Context(), cfg, "up")
		},
	}
	a.planeFlags(cmd, &cfg, &level)
	return cmd
}

// seederCmd is one server of a production control plane.
func (a *app) seederCmd() *cobra.Command {
	var cfg up.Config
	var level, cert, key, ca string
	cmd := &cobra.Command{
		Use: "seeder --etcd URL,URL,URL", Short: "Run one server of a control plane against an etcd cluster", Args: cobra.NoArgs,
		Long: "Run one server of a control plane: API, artifact store, tracker, first seed, flags and the rollout loop\n" +
			"(one server leads, another takes over within seconds). Run several behind one name. All need the same --fleet-ca.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(cfg.Etcd) == 0 {
				return fmt.Errorf("%w: --etcd is needed; `murmur up` runs an etcd of its own", ErrUsage)
			}
			var err error
			if cfg.EtcdTLS, err = etcdTLS(cert, key, ca); err != nil {
				return err
			}
			if cfg.Log, err = a.logger(level); err != nil {
				return err
			}
			return a.serve(cmd.Context(), cfg, "seeder")
		},
	}
	a.planeFlags(cmd, &cfg, &level)
	f := cmd.Flags()
	f.StringSliceVar(&cfg.Etcd, "etcd", nil, "endpoints of the cluster")
	f.StringVar(&cert, "etcd-cert", "", "client certificate for etcd (PEM)")
	f.StringVar(&key, "etcd-key", "", "its key (PEM)")
	f.StringVar(&ca, "etcd-ca", "", "authority of the cluster's certificates (PEM)")
	f.StringVar(&cfg.CA, "fleet-ca", "", "the fleet's CA with its key; default ca.pem in the folder, made at the first start")
	return cmd
}

// flagdCmd is one more flag server of a production control plane.
func (a *app) flagdCmd() *cobra.Command {
	var cfg up.FlagsConfig
	var level, cert, key, ca string
	cmd := &cobra.Command{
		Use: "flagd --etcd URL,URL,URL", Short: "Run one more flag server beside a control plane", Args: cobra.NoArgs,
		Long: "Run a flag server: services read flags and are told of changes here. Run several, near those services. It keeps\n" +
			"a copy on disk and needs etcd neither to start again nor to go on.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(cfg.Etcd) == 0 {
				return fmt.Errorf("%w: --etcd is needed; `murmur up` runs an etcd and a flag server of its own", ErrUsage)
			}
			var err error
			if cfg.EtcdTLS, err = etcdTLS(cert, key, ca); err != nil {
				return err
			}
			if cfg.Log, err = a.logger(level); err != nil {
				return err
			}
			return up.RunFlags(cmd.Context(), cfg, func(url string) { fmt.Fprintf(a.Stderr, "services read flags at %s\n", url) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Dir, "dir", filepath.Join(defaultDir(a.Getenv), "flagd-server"), "folder that holds the copy of the flags")
	f.StringVar(&cfg.ID, "id", "flagd-1", "name of this server, unique in the fleet")
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:7402", "address to serve at (TLS)")
	f.StringSliceVar(&cfg.Names, "name", nil, "more names and addresses for the server certificate")
	f.IntVar(&cfg.MaxStreams, "max-streams", 0, "event streams open at once; default 20000")
	f.StringSliceVar(&cfg.Etcd, "etcd", nil, "endpoints of the cluster")
	f.StringVar(&cert, "etcd-cert", "", "client certificate for etcd (PEM)")
	f.StringVar(&key, "etcd-key", "", "its key (PEM)")
	f.StringVar(&ca, "etcd-ca", "", "authority of the cluster's certificates (PEM)")
	f.StringVar(&cfg.CA, "fleet-ca", "", "the fleet's CA with its key; default ca.pem in the folder")
	f.StringVar(&level, "log", "info", "debug, info, warn or error")
	return cmd
}

func (a *app) planeFlags(cmd *cobra.Command, cfg *up.Config, level *string) {
	f := cmd.Flags()
	f.StringVar(&cfg.Dir, "dir", defaultDir(a.Getenv), "folder that holds everything")
	f.StringVar(&cfg.ID, "id", "seeder-1", "name of this server, unique in the fleet")
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:7400", "address of the API (TLS)")
	f.StringVar(&cfg.SwarmListen, "swarm-listen", "127.0.0.1:7401", "address of the torrent engine (mutual TLS)")
	f.StringVar(&cfg.FlagListen, "flagd-listen", "127.0.0.1:7402", "address at which services read flags (TLS); none leaves the API's address")
	f.StringVar(&cfg.Advertise, "advertise", "", "host:port at which others reach the API; default the address it listens on")
	f.StringVar(&cfg.SwarmAdvertise, "swarm-advertise", "", "host:port at which peers reach the engine")
	f.StringSliceVar(&cfg.Names, "name", nil, "more names and addresses for the server certificate")
	f.Int64Var(&cfg.UpRate, "up-rate", 0, "bytes per second the first seed may send; 0 is no bound")
	f.IntVar(&cfg.KeepReleases, "keep", 0, "releases kept per service besides those in use; default 10")
	f.StringVar(level, "log", "info", "debug, info, warn or error")
}

func defaultDir(getenv func(string) string) string {
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".murmur")
	}
	return ".murmur"
}

func (a *app) logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("%w: --log %q is none of debug, info, warn, error", ErrUsage, level)
	}
	return slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: l})), nil
}

// serve runs a control plane until the context ends.
func (a *app) serve(ctx context.Context, cfg up.Config, name string) error {
	plane, err := up.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer plane.Close()
	fmt.Fprintf(a.Stderr, "the control plane answers at %s, services read flags at %s\n", plane.URL(), plane.FlagURL())
	if err := a.storeFirstLogin(ctx, plane, name); err != nil {
		// The control plane runs; a session that could not be stored can be had by murmur login.
		fmt.Fprintf(a.Stderr, "no context was stored: %v\n", err)
	}
	return plane.Wait()
}

func (a *app) storeFirstLogin(ctx context.Context, plane *up.Plane, name string) error {
	stored, c, err := up.LogIn(ctx, plane)
	if err != nil {
		return err
	}
	c.Close()
	if err := a.store(name, stored); err != nil {
		return err
	}
	fmt.Fprintf(a.Stderr, "logged in as %s (context %q); the password is in %s\ntry: murmur host list; murmur join-token create\n", stored.User, name, plane.PasswordFile())
	return nil
}

// etcdTLS loads client certificates for etcd; nil when none are given.
func etcdTLS(cert, key, ca string) (*tls.Config, error) {
	if cert == "" && key == "" && ca == "" {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("etcd's client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("etcd's authority: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcd's authority: %s holds no certificate", ca)
		}
	}
	return cfg, nil
}

func (a *app) demoCmd() *cobra.Command {
	var cfg demo.Config
	var level string
	cmd := &cobra.Command{
		Use: "demo", Short: "The whole system with twelve hosts on this machine", Args: cobra.NoArgs,
		Long: "Run a control plane, twelve real agents in four racks, a sample service in its own git repository and\n" +
			"traffic, and say what to try. --story plays and verifies everything without a human.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.JSON, cfg.Stdout, cfg.Stderr = a.json, a.Stdout, a.Stderr
			var err error
			if cfg.Log, err = a.logger(level); err != nil {
				return err
			}
			if cfg.JSON && !cfg.Story {
				return errors.Join(ErrUsage, errors.New("--json goes with --story"))
			}
			return demo.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Dir, "dir", "", "folder that holds everything and is kept; default a temporary one")
	f.IntVar(&cfg.Hosts, "hosts", 12, "how many hosts, in four racks")
	f.BoolVar(&cfg.Story, "story", false, "play the story, verify every step, and stop")
	f.StringVar(&cfg.SDK, "sdk", "", "checkout of Murmuration that the sample service imports; default the one around this program")
	f.StringVar(&cfg.Real, "real", "", "in the story, also deploy this folder (100 MB or more) and a tree of 20,000 files, and compare every byte")
	f.StringVar(&level, "log", "error", "debug, info, warn or error")
	return cmd
}
