package swarm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	dialTimeout       = 3 * time.Second
	handshakeTimeout  = 5 * time.Second
	maxHandshakes     = 256 // inbound, at one time
	maxConnsPerName   = 8   // inbound, all torrents
	handshakeBytes    = 68  // BEP 3: 20 of protocol, 8 of extensions, 20 of infohash, 20 of peer id
	infohashAt        = 28
	infohashEnd       = infohashAt + 20
	acceptRetryPeriod = 50 * time.Millisecond
)

// transport makes and takes the connections that the engine sees. Inbound ones reach it only after the TLS handshake
// and the check of the name, outbound ones only when the host dialled carries the name expected there. It implements the
// engine's Listener and Dialer.
type transport struct {
	cfg      Config
	names    *names
	up, down *rate.Limiter
	log      *slog.Logger

	// route, when set, may take an inbound connection that names a torrent; set before any connection.
	route func(hash [20]byte, name string, c net.Conn) bool

	ln      net.Listener
	ready   chan net.Conn
	pending chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu    sync.Mutex
	conns map[string]int // inbound, by name
	open  map[*peerConn]struct{}
}

func newTransport(cfg Config, n *names, log *slog.Logger) (*transport, error) {
	if (cfg.ServerTLS == nil) != (cfg.ClientTLS == nil) {
		return nil, errors.New("swarm: set both ServerTLS and ClientTLS, or neither for plaintext")
	}
	if cfg.ServerTLS != nil && cfg.PeerName == nil {
		return nil, errors.New("swarm: TLS needs Config.PeerName to tell who a peer is")
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("swarm: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &transport{
		cfg: cfg, names: n, up: newLimiter(cfg.UpRate), down: newLimiter(cfg.DownRate), log: log, ln: ln,
		ready: make(chan net.Conn), pending: make(chan struct{}, maxHandshakes), ctx: ctx, cancel: cancel,
		conns: map[string]int{}, open: map[*peerConn]struct{}{},
	}
	return t, nil
}

// start begins to accept; route is set by then.
func (t *transport) start() { t.wg.Go(t.serve) }

// serve accepts until the listener is closed. Handshakes run beside it, a bounded number at a time: above it, callers
// wait in the kernel's queue.
func (t *transport) serve() {
	for {
		select {
		case t.pending <- struct{}{}:
		case <-t.ctx.Done():
			return
		}
		raw, err := t.ln.Accept()
		if t.ctx.Err() != nil {
			if err == nil {
				raw.Close()
			}
			return
		}
		if err != nil {
			<-t.pending
			t.log.Warn("swarm: accept failed", "err", err)
			pause(t.ctx, acceptRetryPeriod) // out of descriptors: do not spin
			continue
		}
		t.wg.Go(func() {
			defer func() { <-t.pending }()
			t.welcome(raw)
		})
	}
}

// welcome proves who is calling and hands the connection to the engine.
func (t *transport) welcome(raw net.Conn) {
	conn, err := t.admit(raw)
	if err != nil {
		raw.Close()
		t.log.Debug("swarm: caller refused", "from", raw.RemoteAddr().String(), "err", err)
		return
	}
	if t.route != nil {
		hash, peeked, err := peekHash(conn)
		if err != nil {
			conn.Close()
			return
		}
		if t.route(hash, conn.(*peerConn).name, peeked) {
			return
		}
		conn = peeked
	}
	select {
	case t.ready <- conn:
	case <-t.ctx.Done():
		conn.Close()
	}
}

func (t *transport) admit(raw net.Conn) (net.Conn, error) {
	conn := limitConn(raw, t.up, t.down)
	if t.cfg.ServerTLS == nil {
		return t.track(&peerConn{Conn: conn, t: t, remote: raw.RemoteAddr()})
	}
	conf, err := t.cfg.ServerTLS()
	if err != nil {
		return nil, fmt.Errorf("server TLS settings: %w", err)
	}
	ctx, cancel := context.WithTimeout(t.ctx, handshakeTimeout)
	defer cancel()
	secure := tls.Server(conn, hardenServer(conf))
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	name, err := t.identify(secure.ConnectionState())
	if err != nil {
		return nil, err
	}
	if !t.enter(name) {
		return nil, fmt.Errorf("%s has %d connections here", name, maxConnsPerName)
	}
	port := raw.RemoteAddr().(*net.TCPAddr).Port
	return t.track(&peerConn{Conn: secure, t: t, name: name, remote: t.names.inbound(name, port), leave: func() { t.leave(name) }})
}

// track remembers a connection so that close can end it: the engine leaves unfinished handshakes to their timeout.
func (t *transport) track(c *peerConn) (net.Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	t.open[c] = struct{}{}
	return c, nil
}

func (t *transport) identify(state tls.ConnectionState) (string, error) {
	name, err := t.cfg.PeerName(state)
	if err != nil {
		return "", err
	}
	if name == "" {
		return "", errors.New("certificate carries no name")
	}
	if t.names.refused(name, time.Now()) {
		return "", fmt.Errorf("%s is in quarantine or was silent", name)
	}
	return name, nil
}

func (t *transport) enter(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns[name] >= maxConnsPerName {
		return false
	}
	t.conns[name]++
	return true
}

func (t *transport) leave(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns[name]--; t.conns[name] <= 0 {
		delete(t.conns, name)
	}
}

// Accept returns the next admitted connection.
func (t *transport) Accept() (net.Conn, error) {
	select {
	case c := <-t.ready:
		return c, nil
	case <-t.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Addr returns the address peers dial.
func (t *transport) Addr() net.Addr { return t.ln.Addr() }

// DialerNetwork names the network in the engine's messages.
func (t *transport) DialerNetwork() string { return "tcp" }

// Dial connects to the peer behind one of our made-up addresses and checks that it is who we expect.
func (t *transport) Dial(ctx context.Context, addr string) (net.Conn, error) {
	p, err := t.names.lookup(addr)
	if err != nil {
		return nil, err
	}
	conn, err := t.dial(ctx, p, addr)
	if err != nil {
		t.log.Debug("swarm: dial failed", "peer", p.Name, "addr", p.Addr, "err", err)
	}
	return conn, err
}

func (t *transport) dial(ctx context.Context, p Peer, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+handshakeTimeout)
	defer cancel()
	raw, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", p.Addr)
	if err != nil {
		return nil, err
	}
	remote, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		raw.Close()
		return nil, err
	}
	conn := limitConn(raw, t.up, t.down)
	if t.cfg.ClientTLS == nil {
		return t.track(&peerConn{Conn: conn, t: t, name: p.Name, remote: remote})
	}
	secure, name, err := t.secure(ctx, conn, p)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return t.track(&peerConn{Conn: secure, t: t, name: name, remote: remote})
}

func (t *transport) secure(ctx context.Context, conn net.Conn, p Peer) (net.Conn, string, error) {
	conf, err := t.cfg.ClientTLS()
	if err != nil {
		return nil, "", fmt.Errorf("swarm: client TLS settings: %w", err)
	}
	secure := tls.Client(conn, hardenClient(conf))
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, "", err
	}
	name, err := t.identify(secure.ConnectionState())
	if err != nil {
		return nil, "", err
	}
	if p.Name != "" && name != p.Name {
		return nil, "", fmt.Errorf("swarm: %s is %q, expected %q", p.Addr, name, p.Name)
	}
	return secure, name, nil
}

// close ends accepting and every connection. The engine must be closed before: it would spin on a closed listener.
func (t *transport) close() error {
	t.cancel()
	err := t.ln.Close()
	t.mu.Lock()
	conns := slices.Collect(maps.Keys(t.open))
	t.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	t.wg.Wait()
	return err
}

// hardenServer returns the settings with what the swarm insists on: TLS 1.3 and a verified client certificate.
func hardenServer(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.MinVersion = tls.VersionTLS13
	c.SessionTicketsDisabled = true // every connection proves itself anew, so a revoked host is out
	if c.ClientAuth != tls.RequireAnyClientCert || c.VerifyConnection == nil {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return c
}

// hardenClient returns the settings with what the swarm insists on. Peers are known by name, not by host name: unless the
// settings verify by themselves, the chain is verified against RootCAs and the name is compared by the caller.
func hardenClient(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.MinVersion = tls.VersionTLS13
	c.ClientSessionCache = nil
	if c.InsecureSkipVerify && (c.VerifyConnection != nil || c.VerifyPeerCertificate != nil) {
		return c
	}
	roots, next := c.RootCAs, c.VerifyConnection
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(state tls.ConnectionState) error {
		if err := verifyChain(state, roots); err != nil {
			return err
		}
		if next != nil {
			return next(state)
		}
		return nil
	}
	return c
}

func verifyChain(state tls.ConnectionState, roots *x509.CertPool) error {
	if roots == nil || len(state.PeerCertificates) == 0 {
		return errors.New("swarm: no fleet CA to verify the peer with")
	}
	pool := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		pool.AddCert(c)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

// peerConn is one connection as the engine sees it: from an address that stands for the peer's name, and cut off as soon
// as the peer names a torrent it may not take part in.
type peerConn struct {
	net.Conn
	t      *transport
	name   string
	remote net.Addr
	leave  func()
	once   sync.Once

	head []byte // the first bytes read, until the infohash is known; only the reader touches it
	ok   bool
}

func (c *peerConn) RemoteAddr() net.Addr { return c.remote }

func (c *peerConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.ok || n == 0 || c.t.cfg.Allowed == nil || c.t.cfg.ServerTLS == nil {
		return n, err
	}
	c.head = append(c.head, b[:min(n, handshakeBytes-len(c.head))]...)
	if len(c.head) < infohashEnd {
		return n, err
	}
	if hash := [20]byte(c.head[infohashAt:infohashEnd]); !c.t.cfg.Allowed(hash, c.name) {
		c.t.log.Warn("swarm: peer may not join this torrent", "peer", c.name, "infohash", fmt.Sprintf("%x", hash))
		return 0, fmt.Errorf("swarm: %s may not join %x", c.name, hash)
	}
	c.ok, c.head = true, nil
	return n, err
}

func (c *peerConn) Close() error {
	c.once.Do(func() {
		c.t.mu.Lock()
		delete(c.t.open, c)
		c.t.mu.Unlock()
		if c.leave != nil {
			c.leave()
		}
	})
	return c.Conn.Close()
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
