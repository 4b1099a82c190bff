package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/version"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"
)

// maxMessage bounds an answer, in bytes.
const maxMessage = 16 << 20

// Client reaches the API of one fleet. It is safe for concurrent use.
type Client struct {
	Releases murmurv1connect.ReleaseServiceClient
	Services murmurv1connect.ServiceServiceClient
	Rollouts murmurv1connect.RolloutServiceClient
	Fleet    murmurv1connect.FleetServiceClient
	Identity murmurv1connect.IdentityServiceClient
	Flags    murmurv1connect.FlagServiceClient

	cfg  Context
	http *http.Client
	base *failover
}

// New makes a client. It connects to nothing yet.
func New(cfg Context) (*Client, error) {
	if err := cfg.Valid(); err != nil {
		return nil, err
	}
	transport, err := newTransport(cfg.CA)
	if err != nil {
		return nil, err
	}
	base, err := newFailover(cfg.Servers, &bearerTransport{next: transport, token: cfg.Token})
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, base: base, http: &http.Client{Transport: base, CheckRedirect: refuseRedirect}}
	opts := []connect.ClientOption{connect.WithReadMaxBytes(maxMessage)}
	url := cfg.Servers[0]
	c.Releases = murmurv1connect.NewReleaseServiceClient(c.http, url, opts...)
	c.Services = murmurv1connect.NewServiceServiceClient(c.http, url, opts...)
	c.Rollouts = murmurv1connect.NewRolloutServiceClient(c.http, url, opts...)
	c.Fleet = murmurv1connect.NewFleetServiceClient(c.http, url, opts...)
	c.Identity = murmurv1connect.NewIdentityServiceClient(c.http, url, opts...)
	c.Flags = murmurv1connect.NewFlagServiceClient(c.http, url, opts...)
	return c, nil
}

// HTTP is the client's HTTP client, for the plain routes beside the API: it adds the bearer and reaches the server
// that answers. URLs start with [Client.URL].
func (c *Client) HTTP() *http.Client { return c.http }

// URL is the base URL that requests name.
func (c *Client) URL() string { return strings.TrimRight(c.cfg.Servers[0], "/") }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func newTransport(ca string) (*http.Transport, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS13}
	if ca != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(ca)) {
			return nil, errors.New("the CA of the context (or MURMUR_CA) holds no certificate in PEM form")
		}
		tlsConfig.RootCAs = pool
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       tlsConfig,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   10 * time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   8,
		ExpectContinueTimeout: time.Second,
	}, nil
}

// refuseRedirect keeps the token from being sent elsewhere.
func refuseRedirect(req *http.Request, _ []*http.Request) error {
	return fmt.Errorf("the server sent us to %s://%s: configure that address if it is right", req.URL.Scheme, req.URL.Host)
}

// bearerTransport adds the token and the program's name.
type bearerTransport struct {
	next  http.RoundTripper
	token string
}

// RoundTrip sends the request with the bearer.
func (t *bearerTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	if t.token != "" && req.Header.Get("Authorization") == "" {
		req.Header.Set("Authorization", "Bearer "+t.token)
	}
	if strings.HasPrefix(req.Header.Get("User-Agent"), "connect-go") || req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "murmur/"+version.Version)
	}
	return t.next.RoundTrip(req)
}

// CloseIdleConnections passes the call on.
func (t *bearerTransport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// failover sends requests to the server that answered last and goes on to the next one when it cannot be connected to.
// A request that may have reached a server is not sent again.
type failover struct {
	servers []*url.URL
	next    http.RoundTripper
	last    atomic.Int32
}

func newFailover(servers []string, next http.RoundTripper) (*failover, error) {
	f := &failover{next: next}
	for _, s := range servers {
		u, err := url.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("server %q: %w", s, err)
		}
		f.servers = append(f.servers, u)
	}
	return f, nil
}

// RoundTrip sends the request to a server that can be connected to.
func (f *failover) RoundTrip(req *http.Request) (*http.Response, error) {
	start := int(f.last.Load())
	var firstErr error
	for i := range f.servers {
		n := (start + i) % len(f.servers)
		again := req.Clone(req.Context())
		again.URL.Scheme, again.URL.Host, again.Host = f.servers[n].Scheme, f.servers[n].Host, ""
		if i > 0 && req.Body != nil {
			if req.GetBody == nil {
				break
			}
			body, err := req.GetBody()
			if err != nil {
				break
			}
			again.Body = body
		}
		resp, err := f.next.RoundTrip(again)
		if err == nil {
			f.last.Store(int32(n))
			return resp, nil
		}
		if firstErr == nil {
			firstErr = &ConnectError{Server: f.servers[n].Scheme + "://" + f.servers[n].Host, err: err}
		}
		if !notSent(err) || req.Context().Err() != nil {
			return nil, &ConnectError{Server: f.servers[n].Scheme + "://" + f.servers[n].Host, err: err}
		}
	}
	return nil, firstErr
}

// CloseIdleConnections passes the call on.
func (f *failover) CloseIdleConnections() {
	if c, ok := f.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// notSent reports whether an error says that no byte of the request left: the connection was never made.
func notSent(err error) bool {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Op == "dial"
	}
	return false
}

// ConnectError is a server that could not be talked to at all.
type ConnectError struct {
	// Server is its base URL.
	Server string
	err    error
}

// Error names the server and the cause.
func (e *ConnectError) Error() string {
	return fmt.Sprintf("cannot reach %s: %v", e.Server, cause(e.err))
}

// Unwrap is the cause.
func (e *ConnectError) Unwrap() error { return e.err }

// cause is the innermost part of a dial error, which says all that matters.
func cause(err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" && e.Err != nil {
		if inner := errors.Unwrap(e.Err); inner != nil {
			return inner
		}
		return e.Err
	}
	return err
}

// drain reads what is left of a small answer, so that its connection can be used again.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	_ = body.Close()
}

// sleep waits, or ends with the context.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
