package etcdstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/murmuration/murmuration/internal/record"
)

// Config says which etcd to use and how. Only Endpoints is needed.
type Config struct {
	// Endpoints are "https://host:port", "http://host:port" or "unix:///path" of some or all members.
	Endpoints []string
	// TLS holds the client certificate and the authorities to trust; nil for plain text.
	TLS *tls.Config
	// Username and Password authenticate with etcd's own users; empty when TLS or nothing does.
	Username, Password string
	// Prefix is put before every key, so that one etcd can serve several fleets. Default "/murmur/".
	Prefix string
	// DialTimeout bounds the first contact in Open. Default 5 s.
	DialTimeout time.Duration
	// OpTimeout bounds every request. Default 5 s.
	OpTimeout time.Duration
	// LeaseTTL is how long a leader that dies is still waited for, in whole seconds. Default 5 s, least 2 s.
	LeaseTTL time.Duration
	// CompareEvery is the time between two full comparisons of a watch, give or take a tenth. Default 60 s.
	CompareEvery time.Duration
	// WatchBuffer is how many responses of etcd a watch may be behind before it starts over. Default 256.
	WatchBuffer int
	// Lazy lets Open succeed while etcd is away; every operation then says so by itself.
	Lazy bool
	// Logger is told of what heals by itself. Nil: nothing is logged.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = "/murmur/"
	}
	if !strings.HasSuffix(c.Prefix, "/") {
		c.Prefix += "/"
	}
	c.DialTimeout = orDefault(c.DialTimeout, 5*time.Second)
	c.OpTimeout = orDefault(c.OpTimeout, 5*time.Second)
	c.LeaseTTL = max(orDefault(c.LeaseTTL, 5*time.Second), 2*time.Second)
	c.CompareEvery = orDefault(c.CompareEvery, time.Minute)
	c.WatchBuffer = orDefault(c.WatchBuffer, 256)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// Store is a record.Store in etcd. Make it with [Open]. It is safe for concurrent use.
type Store struct {
	cfg    Config
	log    *slog.Logger
	keys   keys
	packer *record.Packer
	// client serves requests, watcher only watches: a large read must not hold up a watch.
	client, watcher *clientv3.Client
	ctx             context.Context
	cancel          context.CancelFunc

	mu   sync.Mutex
	held map[*leadership]bool
}

var _ record.Store = (*Store)(nil)

// Open connects to etcd. Unless cfg.Lazy is set, it fails with record.ErrUnavailable when no endpoint answers a
// linearizable read within cfg.DialTimeout. The context bounds only Open itself. The caller closes the store.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	packer, err := record.NewPacker()
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, log: cfg.Logger, keys: keys{cfg.Prefix}, packer: packer, held: make(map[*leadership]bool),
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if s.client, err = dial(s.ctx, cfg); err != nil {
		s.cancel()
		return nil, openError(cfg, err)
	}
	if s.watcher, err = dial(s.ctx, cfg); err != nil {
		s.cancel()
		return nil, openError(cfg, errors.Join(err, s.client.Close()))
	}
	if err := s.probe(ctx); err != nil && !cfg.Lazy {
		return nil, openError(cfg, errors.Join(err, s.Close()))
	}
	return s, nil
}

func openError(cfg Config, err error) error {
	return fmt.Errorf("open store at %s: %w", strings.Join(cfg.Endpoints, ", "), err)
}

func dial(ctx context.Context, cfg Config) (*clientv3.Client, error) {
	reconnect := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	return clientv3.New(clientv3.Config{
		Context:              ctx,
		Endpoints:            cfg.Endpoints,
		TLS:                  cfg.TLS,
		Username:             cfg.Username,
		Password:             cfg.Password,
		DialTimeout:          cfg.DialTimeout,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		MaxCallSendMsgSize:   2 * record.MaxCommit,
		Logger:               zap.NewNop(), // it would log every retry; what matters comes back as an error
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 3 * time.Second}),
		},
	})
}

// probe asks for a key that does not exist.
func (s *Store) probe(ctx context.Context) error {
	timed, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	defer cancel()
	_, err := s.client.Get(timed, s.keys.prefix, clientv3.WithCountOnly())
	return s.wrap(ctx, "first contact", err)
}

// Close implements record.Store. It resigns what this store leads, so that others take over at once, ends every
// watch and closes both connections.
func (s *Store) Close() error {
	if s.ctx.Err() != nil {
		return nil
	}
	s.resignAll()
	s.cancel()
	err := errors.Join(s.client.Close(), s.watcher.Close())
	if err != nil && !errors.Is(err, context.Canceled) { // the clients report their own cancelled context
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// do runs one request with its time limit and explains its error.
func (s *Store) do(ctx context.Context, what string, fn func(context.Context) error) error {
	opCtx, cancel := context.WithTimeout(ctx, s.cfg.OpTimeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)() // Close ends the request, and the client's retries
	return s.wrap(ctx, what, fn(opCtx))
}
