package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/wire"
)

// origin is what the middleware knows about the connection of a request.
type origin struct {
	peer Peer
	cert *x509.Certificate
	from string
}

type originKey struct{}

// Middleware notes, for [Authority.Interceptor], where a request came from and which verified certificate its
// connection has. It goes around every Connect handler. It refuses nobody.
func (a *Authority) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), originKey{}, originOf(r.TLS, r.RemoteAddr))
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func originOf(cs *tls.ConnectionState, remote string) origin {
	o := origin{from: remote}
	if host, _, err := net.SplitHostPort(remote); err == nil {
		o.from = host
	}
	if cs == nil {
		return o
	}
	if p, cert, err := verifiedPeer(cs); err == nil {
		o.peer, o.cert = p, cert
	}
	return o
}

// Authorize is for plain HTTP routes: it says who makes the request, if that is a person or token of at least the
// role, or a certificate holder of one of the kinds. The error tells apart who is unknown (status 401) from who
// may not (403); see [HTTPStatus].
func (a *Authority) Authorize(r *http.Request, role Role, peers ...Kind) (Caller, error) {
	o, ok := r.Context().Value(originKey{}).(origin)
	if !ok {
		o = originOf(r.TLS, r.RemoteAddr)
	}
	c, err := a.authenticate(r.Context(), o, r.Header)
	if err != nil {
		return Caller{}, err
	}
	return c, authorise(access{role: role, peers: peers}, c, r.URL.Path)
}

// HTTPStatus is the status for an error of [Authority.Authorize].
func HTTPStatus(err error) int {
	switch wire.Code(err) {
	case connect.CodeUnauthenticated:
		return http.StatusUnauthorized
	case connect.CodePermissionDenied:
		return http.StatusForbidden
	case connect.CodeResourceExhausted:
		return http.StatusTooManyRequests
	case connect.CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// authorise reports whether the caller has the access.
func authorise(want access, c Caller, what string) error {
	if want.allows(c) {
		return nil
	}
	what = what[strings.LastIndexByte(what, '/')+1:] // the procedure's name says enough to a person
	switch {
	case c.Name == "":
		return ErrNotLoggedIn
	case want.role == Nobody && len(want.peers) == 0:
		return wire.Denied("%w: nobody may call %s", ErrForbidden, what)
	case want.role == Nobody:
		return wire.Denied("%w: %s is for %s certificates only", ErrForbidden, what, want.peers[0])
	case !c.Peer.IsZero():
		return wire.Denied("%w: %s needs a person or token of role %s, this is the certificate of %s", ErrForbidden, what, want.role, c.Name)
	}
	return wire.Denied("%w: %s is %s, %s needs %s", ErrForbidden, c.Name, c.Role, what, want.role)
}

// authenticate says who makes a request: by bearer token if there is one, else by certificate. The zero
// Caller but for From is nobody. A token that is wrong is an error even when there is a certificate.
func (a *Authority) authenticate(ctx context.Context, o origin, h http.Header) (Caller, error) {
	c := Caller{From: o.from}
	if value := h.Get("Authorization"); value != "" {
		scheme, token, _ := strings.Cut(value, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return Caller{}, ErrBadToken
		}
		return a.authenticateBearer(ctx, strings.TrimSpace(token), c)
	}
	if o.cert == nil {
		return c, nil
	}
	if err := a.Revoked(o.peer, o.cert); err != nil {
		return Caller{}, err
	}
	c.Peer, c.Name = o.peer, o.peer.Name()
	return c, nil
}

// Interceptor authenticates every request and authorises it by the table of permissions: procedures that are not
// in it are denied. Behind it, handlers find the [Caller] in their context. It needs [Authority.Middleware]
// around the handler, and [wire.Errors] outside of it.
func (a *Authority) Interceptor() connect.Interceptor { return authInterceptor{a} }

type authInterceptor struct{ a *Authority }

func (i authInterceptor) admit(ctx context.Context, procedure string, h http.Header) (context.Context, error) {
	o, _ := ctx.Value(originKey{}).(origin)
	want := permissions[procedure]
	c, err := i.a.authenticate(ctx, o, h)
	if want.public && errors.Is(err, ErrBadToken) {
		// Logging in with an old token at hand must work.
		c, err = Caller{From: o.from}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := authorise(want, c, procedure); err != nil {
		return nil, err
	}
	return WithCaller(ctx, c), nil
}

// WrapUnary guards a unary handler.
func (i authInterceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if req.Spec().IsClient {
			return next(ctx, req)
		}
		ctx, err := i.admit(ctx, req.Spec().Procedure, req.Header())
		if err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

// WrapStreamingClient changes nothing.
func (i authInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler guards a streaming handler.
func (i authInterceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		ctx, err := i.admit(ctx, conn.Spec().Procedure, conn.RequestHeader())
		if err != nil {
			return err
		}
		return next(ctx, conn)
	}
}
