// Package utp stands in for the uTP transport that the torrent engine can use.
//
// Murmuration carries its swarm over mutual TLS on TCP and keeps uTP switched off, so nothing here is
// ever reached: the package only gives the engine the names it compiles against. Every constructor
// answers [ErrDisabled], so switching uTP on by mistake is a clear error and never a silent socket.
package utp

import (
	"context"
	"errors"
	"log/slog"
	"net"
)

// ErrDisabled is what every constructor returns: this build has no uTP.
var ErrDisabled = errors.New("utp: not part of this build")

// Default names the implementation in the engine's messages.
const Default = "disabled"

// Option configures a socket; none has an effect.
type Option func()

// FirewallCallback decides about an incoming connection.
type FirewallCallback func(net.Addr) bool

// Socket is the interface the engine expects of a uTP socket.
type Socket interface {
	net.PacketConn
	Accept() (net.Conn, error)
	Addr() net.Addr
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	SetFirewallCallback(FirewallCallback)
}

// WithLogger is accepted and ignored.
func WithLogger(*slog.Logger) Option { return func() {} }

// NewSocket always fails with [ErrDisabled].
func NewSocket(_, _ string, _ ...Option) (Socket, error) { return nil, ErrDisabled }

// NewSocketFromPacketConn always fails with [ErrDisabled].
func NewSocketFromPacketConn(net.PacketConn, ...Option) (Socket, error) { return nil, ErrDisabled }
