package identity

import "context"

// Caller is who makes a request. The zero Caller is nobody.
type Caller struct {
	// Name is a user's name, a token's "owner/name", or a peer's name ([Peer.Name]).
	Name string
	// Role is what the caller may do; Nobody for certificate holders.
	Role Role
	// Peer is set for callers who came with a certificate and without a bearer token.
	Peer Peer
	// User is the user behind a session or token.
	User string
	// From is the address the request came from, without the port.
	From string
	// Session and Token are the ids of the log-in or API token used, "" otherwise.
	Session, Token string
}

type callerKey struct{}

// WithCaller returns a context that says who acts. Programs use it for what they do on their own account, for
// example Caller{Name: "murmur up", Role: Admin}.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom returns who acts; the zero Caller when nobody was authenticated.
func CallerFrom(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// PeerFromContext returns the peer whose certificate the request came with. Session handlers compare it with
// the host id that the agent claims.
func PeerFromContext(ctx context.Context) (Peer, bool) {
	p := CallerFrom(ctx).Peer
	return p, !p.IsZero()
}
