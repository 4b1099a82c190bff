package flagd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
)

// Server is one flag server. Make it with [New], run it with [Server.Run].
type Server struct {
	cfg Config
	log *slog.Logger
	dir *os.Root

	listener  net.Listener // nil without one
	serverTLS *tls.Config
	handler   http.Handler

	view     *view
	hub      *hub
	readers  *readers
	tickets  *tickets
	usage    *usage
	metrics  *metrics
	moved    *bell
	wake     chan struct{} // tells the schedules that the flags changed
	stopping chan struct{} // closed when streams shall end
}

// New makes a server: it opens its folder and its listener and loads the disk copy, if there is a good one. It talks to
// nobody yet.
func New(cfg Config) (*Server, error) {
	if err := cfg.applyDefaults(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, view: newView(cfg.Log), hub: newHub(cfg.MaxStreams, cfg.StreamRate),
		readers: newReaders(cfg.Authority, cfg.pace.trusted), tickets: &tickets{}, usage: newUsage(),
		moved: newBell(), wake: make(chan struct{}, 1), stopping: make(chan struct{}),
	}
	s.metrics = newMetrics(s)
	s.handler = s.routed()
	s.view.changed = func(*state) {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	var err error
	if s.dir, err = openDir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("flagd: the folder for the disk copy: %w", err)
	}
	if err := s.listen(); err != nil {
		return nil, errors.Join(fmt.Errorf("flagd: %w", err), s.close())
	}
	s.loadCopy()
	return s, nil
}

// listen opens the listener with its certificate.
func (s *Server) listen() error {
	if s.cfg.Listen == NoListener {
		return nil
	}
	var err error
	if s.listener, err = net.Listen("tcp", s.cfg.Listen); err != nil {
		return err
	}
	auth, cert := s.cfg.Authority, s.cfg.Cert
	if cert == nil {
		own, err := identity.NewServerCert(auth.CA(), s.cfg.ID, append([]string{hostPart(s.Addr())}, s.cfg.Names...)...)
		if err != nil {
			return err
		}
		cert = own.Certificate
	}
	s.serverTLS = identity.ServerConfig(auth.CA().Pool(), cert, auth.Revoked)
	return nil
}

// Addr is the address the server listens on; "" without a listener.
func (s *Server) Addr() string {
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Ready is closed once there are flags to serve, from the store or from the disk copy.
func (s *Server) Ready() <-chan struct{} { return s.view.ready }

// Handler is everything this server answers. Serve it over TLS; it may be mounted at the root of another server
// beside other paths. It must see the whole path of a request.
func (s *Server) Handler() http.Handler { return s.handler }

// Run serves until ctx ends or a part fails for good. A store that cannot be reached is no such failure. Run may be
// called once.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.follow(ctx) })
	g.Go(func() error { return s.keepContact(ctx) })
	g.Go(func() error { return s.keepTickets(ctx) })
	g.Go(func() error { return s.keepCopy(ctx) })
	g.Go(func() error { return s.keepSchedules(ctx) })
	g.Go(func() error { return s.usage.run(ctx) })
	g.Go(func() error { return s.serve(ctx) })
	return errors.Join(g.Wait(), s.close())
}

// follow applies the store's changes until ctx ends. A watch reconnects by itself; one that ends anyway is begun anew.
func (s *Server) follow(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 10*time.Second) {
		err := s.view.run(ctx, s.cfg.Store)
		if ctx.Err() == nil {
			s.log.Warn("the watch of the flags ended and is begun again", "err", err)
			sleep(ctx, wait)
		}
	}
	return nil
}

// keepContact looks now and then whether the store answers, so that answers can say how old they may be.
func (s *Server) keepContact(ctx context.Context) error {
	for ctx.Err() == nil {
		look, cancel := context.WithTimeout(ctx, s.cfg.pace.contact)
		_, err := s.cfg.Store.Get(look, record.FlagTicketsKey)
		cancel()
		if err == nil || errors.Is(err, record.ErrNotFound) {
			s.view.heard()
		}
		sleep(ctx, s.cfg.pace.contact)
	}
	return nil
}

// keepSchedules rings the bell whenever a schedule moves a dial, at most once a second.
func (s *Server) keepSchedules(ctx context.Context) error {
	st, seen := s.view.load(), uint64(0)
	seen = st.dials(time.Now())
	for {
		wait := time.Hour
		if at, ok := st.nextDial(time.Now()); ok {
			wait = min(max(time.Until(at), time.Second), wait)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.wake:
			timer.Stop()
		case <-timer.C:
		}
		st = s.view.load()
		if now := st.dials(time.Now()); now != seen {
			seen = now
			s.moved.ring()
		}
	}
}

// serve runs the HTTP server until ctx ends, then lets requests finish within the drain timeout.
func (s *Server) serve(ctx context.Context) error {
	if s.listener == nil {
		<-ctx.Done()
		close(s.stopping)
		return nil
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	srv := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10, Protocols: protocols, TLSConfig: s.serverTLS,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		HTTP2:    &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: 20 * time.Second},
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(s.listener, "", "") }()
	select {
	case err := <-done:
		close(s.stopping)
		return err
	case <-ctx.Done():
	}
	close(s.stopping)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	err := srv.Shutdown(drain)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-done
	return err
}

func (s *Server) close() error {
	var errs []error
	if s.listener != nil {
		if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, s.dir.Close())...)
}

// hostPart is the host of a host:port.
func hostPart(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	return strings.Trim(host, "[]")
}
