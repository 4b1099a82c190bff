package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"

	"github.com/murmuration/murmuration/internal/record"
)

// maxSocketPath is what fits into a Unix socket address (108 bytes on Linux, 104 on others, with the zero).
const maxSocketPath = 103

var (
	// ErrInsecure is returned for a folder others may enter and for a network address without certificates.
	ErrInsecure = errors.New("refused as insecure")
	// ErrInUse is returned when another server runs on the folder.
	ErrInUse = errors.New("another store runs on this folder")
)

// Config says where the server keeps its data and who may talk to it. Only Dir is needed.
type Config struct {
	// Dir holds everything; it is made with mode 0700 and refused when others may enter it.
	Dir string
	// Name is the member's name. Default "murmur". It must not change over the life of a folder.
	Name string
	// ClientAddr is "ip:port" to serve clients over TCP; port 0 picks a free one. Default: a Unix socket.
	ClientAddr string
	// CertFile, KeyFile and CAFile (PEM) turn on mutual TLS on ClientAddr: clients must show a certificate of
	// the CA. Either all or none are given. They are read again for every handshake, so they can be renewed.
	CertFile, KeyFile, CAFile string
	// Quota is the most the database may hold, in bytes. Default 4 GiB.
	Quota int64
	// Logger is told of warnings and errors. Nil: nothing is logged.
	Logger *slog.Logger
	// NoSync skips fsync. It is for tests only: a power cut loses data.
	NoSync bool
}

// Server is a running server. Make it with [Start].
type Server struct {
	etcd      *embed.Etcd
	endpoint  string
	lock      *os.File
	socketDir string // removed at Stop, "" if the sockets are in the data folder
	stop      sync.Once
	// stopping ends when Stop begins.
	stopping context.Context
	endAll   context.CancelFunc
}

// Start runs a server and returns when it serves requests, or ctx ends. The server runs until Stop, not until
// ctx ends.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s, err := start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start embedded store in %s: %w", cfg.Dir, err)
	}
	return s, nil
}

func start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := privateDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{}
	s.stopping, s.endAll = context.WithCancel(context.WithoutCancel(ctx))
	if s.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	conf, err := s.configure(dir, cfg)
	if err != nil {
		s.release()
		return nil, err
	}
	if s.etcd, err = startEtcd(s.stopping, conf, cfg.Logger); err != nil {
		s.release()
		return nil, err
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
	case err = <-s.etcd.Err():
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	for _, listener := range s.etcd.Clients {
		if addr := listener.Addr(); cfg.ClientAddr != "" && addr.Network() == "tcp" {
			s.endpoint = conf.ListenClientUrls[0].Scheme + "://" + addr.String()
		}
	}
	return s, nil
}

// startEtcd turns what etcd would end the process for or trip over, such as damaged files, into an error.
func startEtcd(stopping context.Context, conf *embed.Config, log *slog.Logger) (etcd *embed.Etcd, err error) {
	logger, gaveUp := zapLogger(stopping, log)
	conf.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger)
	defer func() {
		broken := recover()
		if first := gaveUp.first.Load(); first != nil {
			err = first
		} else if broken != nil {
			err = fmt.Errorf("etcd cannot use its data, restore it from a backup: %v", broken)
		}
	}()
	return embed.StartEtcd(conf)
}

// Endpoints are the addresses for etcdstore.Config.
func (s *Server) Endpoints() []string { return []string{s.endpoint} }

// Err delivers an error that ended the server by itself.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// Stop ends the server and frees its folder. Calling it again does nothing.
func (s *Server) Stop() {
	s.stop.Do(func() {
		s.endAll()
		s.etcd.Close()
		s.release()
	})
}

func (s *Server) release() {
	s.endAll()
	if s.socketDir != "" {
		_ = os.RemoveAll(s.socketDir) // empty but for stale sockets, in the system's temporary folder
	}
	_ = s.lock.Close() // frees the lock; nothing was written
}

// configure translates cfg and settles the addresses.
func (s *Server) configure(dir string, cfg Config) (*embed.Config, error) {
	conf := embed.NewConfig()
	conf.Name = "murmur"
	if cfg.Name != "" {
		conf.Name = cfg.Name
	}
	conf.Dir = filepath.Join(dir, "data")
	conf.AutoCompactionMode, conf.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	conf.QuotaBackendBytes = 4 << 30
	if cfg.Quota > 0 {
		conf.QuotaBackendBytes = cfg.Quota
	}
	// Values are up to 1 MiB; a small count keeps the log that is replayed at start, and held in memory, short.
	conf.SnapshotCount, conf.SnapshotCatchUpEntries = 5000, 500
	conf.MaxTxnOps, conf.MaxRequestBytes = record.MaxOps+1, 2*record.MaxCommit
	conf.EnableGRPCGateway = false
	conf.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainStreamInterceptor(s.endWithServer)}
	conf.UnsafeNoFsync = cfg.NoSync
	conf.WarningApplyDuration, conf.WarningUnaryRequestDuration = time.Second, time.Second

	sockets, err := s.sockets(dir)
	if err != nil {
		return nil, err
	}
	// Nobody ever connects to the peer address of a single member, but etcd wants to listen on one: a socket
	// nobody else can reach. What is advertised is a name in the member list, fixed for the folder's life.
	conf.ListenPeerUrls = []url.URL{{Scheme: "unix", Host: filepath.Join(sockets, "peer.sock")}}
	conf.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	conf.InitialCluster = conf.InitialClusterFromName(conf.Name)
	// Health and metrics get a socket of their own, so that requests are served by gRPC without a detour.
	conf.ListenClientHttpUrls = []url.URL{{Scheme: "unix", Path: filepath.Join(sockets, "http.sock")}}
	if cfg.ClientAddr != "" {
		return conf, listenTCP(conf, cfg)
	}
	client := url.URL{Scheme: "unix", Path: filepath.Join(sockets, "client.sock")}
	conf.ListenClientUrls, conf.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	s.endpoint = "unix://" + client.Path
	return conf, nil
}

// listenTCP lets clients in over the network, with certificates or from this machine only.
func listenTCP(conf *embed.Config, cfg Config) error {
	host, _, err := net.SplitHostPort(cfg.ClientAddr)
	if err != nil {
		return fmt.Errorf("client address %q: %w", cfg.ClientAddr, err)
	}
	client := url.URL{Scheme: "http", Host: cfg.ClientAddr}
	given := 0
	for _, file := range []string{cfg.CertFile, cfg.KeyFile, cfg.CAFile} {
		if file != "" {
			given++
		}
	}
	switch ip := net.ParseIP(host); {
	case given == 3:
		client.Scheme = "https"
		conf.ClientTLSInfo.CertFile, conf.ClientTLSInfo.KeyFile = cfg.CertFile, cfg.KeyFile
		conf.ClientTLSInfo.TrustedCAFile, conf.ClientTLSInfo.ClientCertAuth = cfg.CAFile, true
		conf.TlsMinVersion = "TLS1.3"
	case given > 0:
		return fmt.Errorf("client address %s: certificate, key and CA files go together", cfg.ClientAddr)
	case ip == nil || !ip.IsLoopback():
		return fmt.Errorf("client address %s without certificates: %w: give certificates or a loopback address",
			cfg.ClientAddr, ErrInsecure)
	}
	conf.ListenClientUrls, conf.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	return nil
}

// sockets is the folder for the sockets: the data folder, or a private temporary one if the path of the data
// folder is too long for a socket address.
func (s *Server) sockets(dir string) (string, error) {
	if len(filepath.Join(dir, "client.sock")) <= maxSocketPath {
		return dir, nil
	}
	temp, err := os.MkdirTemp("", "murmur-store-") // mode 0700
	if err != nil {
		return "", fmt.Errorf("folder for sockets: %w", err)
	}
	s.socketDir = temp
	return temp, nil
}

// privateDir makes the folder and refuses one that others may enter.
func privateDir(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("a folder is needed")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return "", err
	case !info.IsDir():
		return "", fmt.Errorf("%s is no folder: %w", dir, fs.ErrInvalid)
	case info.Mode().Perm()&0o077 != 0:
		return "", fmt.Errorf("%s has mode %#o: %w: chmod 0700 it", dir, info.Mode().Perm(), ErrInsecure)
	}
	return dir, nil
}

// lockDir makes this process the folder's only server until the file is closed.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	return f, nil
}
