package seeder

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/identity/identityapi"
	"github.com/murmuration/murmuration/internal/version"
	"github.com/murmuration/murmuration/internal/wire"
)

// Bounds of requests. A session's messages are bounded by MaxRequest as well.
const (
	maxRequest    = 8 << 20
	unaryTimeout  = 60 * time.Second
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
)

// route is one entry of the server's table.
type route struct {
	pattern string
	handler http.Handler
	// leader says that only the leader answers this: a follower passes the request on.
	leader bool
	// long says that requests last as long as both sides want: no time limit but what the handler sets.
	long bool
}

// routes is the one table of everything this server answers.
func (s *Seeder) routes() []route {
	opts := []connect.HandlerOption{
		connect.WithInterceptors(wire.Errors(s.log), s.cfg.Authority.Interceptor()),
		connect.WithReadMaxBytes(maxRequest),
	}
	rpc := func(leader, long bool) func(string, http.Handler) route {
		return func(pattern string, h http.Handler) route {
			return route{pattern: pattern, handler: s.cfg.Authority.Middleware(h), leader: leader, long: long}
		}
	}
	return []route{
		rpc(false, true)(murmurv1connect.NewReleaseServiceHandler(s.depot, opts...)),
		rpc(false, false)(murmurv1connect.NewIdentityServiceHandler(identityapi.New(s.cfg.Authority, version.Version), opts...)),
		rpc(false, false)(murmurv1connect.NewServiceServiceHandler(s.services, opts...)),
		rpc(true, true)(murmurv1connect.NewRolloutServiceHandler(s.rollouts, opts...)),
		rpc(true, true)(murmurv1connect.NewFleetServiceHandler(s.fleet, opts...)),
		rpc(false, true)(murmurv1connect.NewSessionServiceHandler(s.sessions, opts...)),
		rpc(false, true)(murmurv1connect.NewLeaderServiceHandler(s.followers, opts...)),
		{pattern: "/v1/artifacts/", handler: s.artifacts(), long: true},
		{pattern: "/announce/", handler: s.tracker.Handler()},
		{pattern: "/scrape/", handler: s.tracker.Handler()},
		{pattern: "GET /healthz", handler: http.HandlerFunc(s.healthz)},
		{pattern: "GET /readyz", handler: http.HandlerFunc(s.readyz)},
		{pattern: "GET /metrics", handler: s.restricted(identity.Viewer, promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))},
	}
}

// handler is the whole server.
func (s *Seeder) handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		h := r.handler
		if r.leader {
			h = s.forward.wrap(h)
		}
		if !r.long {
			h = http.TimeoutHandler(h, unaryTimeout, "this took too long")
		}
		mux.Handle(r.pattern, withDeadlines(h))
	}
	for pattern, h := range s.cfg.Routes {
		mux.Handle(pattern, h)
	}
	return mux
}

// artifacts serves the bytes of artifacts: to hosts and seeders by certificate, to people who may read, and takes
// them from those who may publish.
func (s *Seeder) artifacts() http.Handler {
	h := s.depot.ArtifactHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		role, peers := identity.Developer, []identity.Kind(nil)
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			role, peers = identity.Viewer, []identity.Kind{identity.KindHost, identity.KindSeeder}
		}
		caller, err := s.cfg.Authority.Authorize(r, role, peers...)
		if err != nil {
			http.Error(w, err.Error(), identity.HTTPStatus(err))
			return
		}
		h.ServeHTTP(w, r.WithContext(identity.WithCaller(r.Context(), caller)))
	})
}

// restricted lets people and tokens of at least the role in, and seeders.
func (s *Seeder) restricted(role identity.Role, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.cfg.Authority.Authorize(r, role, identity.KindSeeder); err != nil {
			http.Error(w, err.Error(), identity.HTTPStatus(err))
			return
		}
		h.ServeHTTP(w, r)
	})
}

// healthz says that the process runs.
func (s *Seeder) healthz(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") }

// readyz says whether agents and people should be sent here: the records have been read.
func (s *Seeder) readyz(w http.ResponseWriter, _ *http.Request) {
	select {
	case <-s.view.ready:
		writeText(w, http.StatusOK, "ready\n")
	default:
		writeText(w, http.StatusServiceUnavailable, "the store has not been read yet\n")
	}
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // a client that went away needs no answer
}

// sessionHost names the host whose certificate a session came with.
func sessionHost(ctx context.Context) (string, error) {
	peer, ok := identity.PeerFromContext(ctx)
	if !ok || peer.Kind != identity.KindHost {
		return "", wire.Denied("a session needs a host's certificate")
	}
	return peer.ID, nil
}

// callerAddress is where a request came from, without the port.
func callerAddress(ctx context.Context) string { return identity.CallerFrom(ctx).From }

// readDeadline sets how long a request's next read may take. It outlives the request safely: net/http's own
// controller must not be used once the handler has returned, and what cancels a session runs on its own.
type readDeadline struct {
	mu sync.Mutex
	rc *http.ResponseController // nil once the handler returned
}

type deadlineKey struct{}

// withDeadlines lets handlers set deadlines on their connection, which a Connect stream does not offer.
func withDeadlines(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d := &readDeadline{rc: http.NewResponseController(w)}
		defer d.end()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), deadlineKey{}, d)))
	})
}

// deadlines are those of the request; without [withDeadlines] they do nothing.
func deadlines(ctx context.Context) *readDeadline {
	if d, ok := ctx.Value(deadlineKey{}).(*readDeadline); ok {
		return d
	}
	return &readDeadline{}
}

// within ends reads that take longer than d.
func (r *readDeadline) within(d time.Duration) { r.set(time.Now().Add(d)) }

// expire ends the read under way.
func (r *readDeadline) expire() { r.set(time.Unix(1, 0)) }

// expireWith ends the read under way when ctx ends. The handler must call the function returned before it returns:
// its connection must not be touched afterwards.
func (r *readDeadline) expireWith(ctx context.Context) (release func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(done); r.expire() })
	return func() {
		if !stop() {
			<-done
		}
	}
}

// end makes every later call do nothing.
func (r *readDeadline) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rc = nil
}

func (r *readDeadline) set(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rc != nil {
		_ = r.rc.SetReadDeadline(at) // fails only on a connection that is gone, where the read ends anyway
	}
}

// listen opens the API's listener and works out under which address others reach it.
func listen(address, advertise string) (net.Listener, string, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, "", err
	}
	return ln, cmp.Or(advertise, ln.Addr().String()), nil
}

// serve runs the HTTP server until ctx ends, then lets requests finish within the drain timeout.
func (s *Seeder) serve(ctx context.Context) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	srv := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, Protocols: protocols,
		MaxHeaderBytes: 64 << 10, ErrorLog: quietLog(s.log), TLSConfig: s.serverTLS,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: 20 * time.Second},
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(s.listener, "", "") }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	s.sessions.stop()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	err := srv.Shutdown(drain)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-done
	return err
}

// hostPart is the host of a host:port, as it is when there is no port.
func hostPart(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	return strings.Trim(host, "[]")
}
