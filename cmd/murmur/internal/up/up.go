// Package up assembles a control plane: a store, the fleet's identity, a seeder and a flag server, in one process.
// The flag server has an address of its own for the services that read flags; the API's address answers for
// it as well, so that people need to know only one.
//
// `murmur up` is that with an embedded etcd and everything generated: the fleet's CA, server certificates, the
// first admin's password and a builder's signing key, all below one folder that nobody else may enter.
// `murmur seeder` is the same process against an etcd cluster, with the CA's files copied to each server, and
// `murmur flagd` is one more flag server for such a cluster ([RunFlags]).
//
// Whatever is started first is stopped last. The first part that fails ends the others; a second signal ends
// the process at once.
package up

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/murmuration/murmuration/flagd"
	"github.com/murmuration/murmuration/internal/client"
	"github.com/murmuration/murmuration/internal/durable"
	"github.com/murmuration/murmuration/internal/etcdstore"
	"github.com/murmuration/murmuration/internal/etcdstore/embedded"
	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/seeder"
)

// Config says where a control plane lives. Dir is needed; every other field works as its zero value.
type Config struct {
	// Dir holds everything; it is made with mode 0700.
	Dir string
	// ID names this server. Default "seeder-1".
	ID string
	// Listen is the address of the API, SwarmListen that of the torrent engine. Default: loopback, any port.
	Listen, SwarmListen string
	// FlagListen is the address at which services read flags. Default: loopback, any port; [flagd.NoListener]
	// leaves only the API's address.
	FlagListen string
	// Advertise and SwarmAdvertise are how others reach them; Names are more names for the certificate.
	Advertise, SwarmAdvertise string
	Names                     []string
	// Etcd lists the endpoints of a cluster. Empty means: run one member here.
	Etcd []string
	// EtcdTLS is for a cluster with mutual TLS.
	EtcdTLS *tls.Config
	// CA is the fleet's CA file. Default: Dir/ca.pem, made at the first start.
	CA string
	// UpRate bounds what the first seed sends, in bytes per second; 0 is no bound.
	UpRate int64
	// KeepReleases is how many releases of a service are kept besides those in use.
	KeepReleases int
	// LostAfter is how long a host may be without a session before a rollout counts it as lost.
	LostAfter time.Duration
	Log       *slog.Logger
}

// Plane is a running control plane.
type Plane struct {
	cfg       Config
	authority *identity.Authority
	store     record.Store
	server    *embedded.Server
	seeder    *seeder.Seeder
	flags     *flagd.Server
	admin     Credentials
	cancel    context.CancelFunc
	failed    <-chan struct{} // closed when a part has ended
	group     *errgroup.Group
}

// Credentials are how a person reaches this control plane.
type Credentials struct {
	Server string `json:"server"`
	CA     string `json:"ca"` // PEM
	User   string `json:"user"`
	// Password is the first admin's. It is only known on the machine that made it.
	Password string `json:"password,omitempty"`
}

// Start brings a control plane up and returns when it answers. Close ends it.
func Start(ctx context.Context, cfg Config) (*Plane, error) {
	if cfg.ID == "" {
		cfg.ID = "seeder-1"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	p := &Plane{cfg: cfg}
	if err := p.start(ctx); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Plane) start(ctx context.Context) error {
	if err := p.openStore(ctx); err != nil {
		return err
	}
	if err := p.openAuthority(ctx); err != nil {
		return err
	}
	if err := p.openFlags(); err != nil {
		return err
	}
	var err error
	p.seeder, err = seeder.New(seeder.Config{
		Routes: flagRoutes(p.flags.Handler()),
		Store:  p.store, Authority: p.authority, ID: p.cfg.ID, Dir: filepath.Join(p.cfg.Dir, "seeder"),
		Listen: p.cfg.Listen, SwarmListen: p.cfg.SwarmListen, Advertise: p.cfg.Advertise, SwarmAdvertise: p.cfg.SwarmAdvertise,
		Names: p.cfg.Names, UpRate: p.cfg.UpRate, KeepReleases: p.cfg.KeepReleases, LostAfter: p.cfg.LostAfter, Log: p.cfg.Log,
	})
	if err != nil {
		return err
	}
	p.run(ctx)
	for _, ready := range []<-chan struct{}{p.seeder.Ready(), p.flags.Ready()} {
		select {
		case <-ready:
		case <-p.failed:
			return p.group.Wait()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// run starts the long-lived parts as one group: the first that returns stops the rest.
func (p *Plane) run(ctx context.Context) {
	ctx, p.cancel = context.WithCancel(ctx)
	p.group, ctx = errgroup.WithContext(ctx)
	p.failed = ctx.Done()
	p.group.Go(func() error { return p.authority.Run(ctx) })
	p.group.Go(func() error { return p.seeder.Run(ctx) })
	p.group.Go(func() error { return p.flags.Run(ctx) })
	if p.server != nil {
		p.group.Go(func() error {
			select {
			case err := <-p.server.Err():
				return fmt.Errorf("embedded etcd: %w", err)
			case <-ctx.Done():
				return nil
			}
		})
	}
}

func (p *Plane) openStore(ctx context.Context) error {
	endpoints := p.cfg.Etcd
	if len(endpoints) == 0 {
		server, err := embedded.Start(ctx, embedded.Config{Dir: filepath.Join(p.cfg.Dir, "etcd"), Logger: p.cfg.Log})
		if err != nil {
			return fmt.Errorf("start the embedded etcd: %w", err)
		}
		p.server, endpoints = server, server.Endpoints()
	}
	store, err := etcdstore.Open(ctx, etcdstore.Config{Endpoints: endpoints, TLS: p.cfg.EtcdTLS, Logger: p.cfg.Log})
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	p.store = store
	return nil
}

func (p *Plane) openAuthority(ctx context.Context) error {
	path := p.cfg.CA
	if path == "" {
		path = filepath.Join(p.cfg.Dir, "ca.pem")
	}
	ca, err := identity.LoadOrNewCA(path, "Murmuration fleet")
	if err != nil {
		return err
	}
	p.authority, err = identity.New(identity.Config{Store: p.store, CA: ca, Log: p.cfg.Log, Seeders: p.seederURLs()})
	if err != nil {
		return err
	}
	if err := p.authority.Init(ctx); err != nil {
		return err
	}
	return p.bootstrap(ctx)
}

// seederURLs are what joining hosts are told; empty means the address they joined through.
func (p *Plane) seederURLs() []string {
	if p.cfg.Advertise == "" {
		return nil
	}
	return []string{"https://" + p.cfg.Advertise}
}

// passwordFile holds the generated password of the first admin until somebody removes it.
const passwordFile = "admin-password"

// bootstrap makes the first admin. The password is written down before the user exists, so that a crash
// between the two loses nothing.
func (p *Plane) bootstrap(ctx context.Context) error {
	p.admin.User = "admin"
	path := filepath.Join(p.cfg.Dir, passwordFile)
	password, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		users, _, listErr := p.store.List(ctx, record.KindUser, "")
		if listErr != nil || len(users) > 0 {
			return listErr
		}
		password = []byte(newPassword())
		err = writeSecret(p.cfg.Dir, passwordFile, password)
	}
	if err != nil {
		return fmt.Errorf("the first admin's password: %w", err)
	}
	p.admin.Password = string(password)
	_, err = p.authority.Bootstrap(ctx, p.admin.User, p.admin.Password)
	return err
}

func writeSecret(dir, name string, data []byte) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return durable.WriteFile(root, name, data, 0o600)
}

func newPassword() string {
	b := make([]byte, 18)
	rand.Read(b) // never fails: crypto/rand ends the program instead
	return base64.RawURLEncoding.EncodeToString(b)
}

// URL is the address of the API.
func (p *Plane) URL() string {
	if p.cfg.Advertise != "" {
		return "https://" + p.cfg.Advertise
	}
	return "https://" + p.seeder.Addr()
}

// Credentials say how to reach this control plane.
func (p *Plane) Credentials() Credentials {
	c := p.admin
	c.Server, c.CA = p.URL(), string(p.authority.CA().CertPEM())
	return c
}

// Authority gives programs in this process what only the control plane may do.
func (p *Plane) Authority() *identity.Authority { return p.authority }

// Context is how a client reaches this control plane; it has no token yet.
func (p *Plane) Context() client.Context {
	c := p.Credentials()
	return client.Context{Servers: []string{c.Server}, CA: c.CA}
}

// Wait blocks until a part fails or ctx given to Start ends.
func (p *Plane) Wait() error {
	err := p.group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Close stops everything, in the reverse of the order it was started.
func (p *Plane) Close() {
	if p.cancel != nil {
		p.cancel()
		_ = p.group.Wait()
	}
	if p.store != nil {
		_ = p.store.Close()
	}
	if p.server != nil {
		p.server.Stop()
	}
}

// LogIn logs in as the first admin with the generated password.
func LogIn(ctx context.Context, p *Plane) (client.Context, *client.Client, error) {
	creds := p.Credentials()
	target := p.Context()
	if creds.Password == "" {
		return target, nil, fmt.Errorf("the first admin's password is not in %s any more: murmur login %s", filepath.Join(p.cfg.Dir, passwordFile), creds.Server)
	}
	c, err := client.New(target)
	if err != nil {
		return target, nil, err
	}
	defer c.Close()
	resp, err := c.Identity.Login(ctx, connect.NewRequest(&pb.LoginRequest{User: creds.User, Password: creds.Password}))
	if err != nil {
		return target, nil, fmt.Errorf("log in as %s: %w", creds.User, err)
	}
	target.Token, target.User = resp.Msg.Token, creds.User
	in, err := client.New(target)
	return target, in, err
}

// PasswordFile is where the first admin's generated password is, until somebody removes it.
func (p *Plane) PasswordFile() string { return filepath.Join(p.cfg.Dir, passwordFile) }
