package swarm

import (
	"context"
	"net"

	"golang.org/x/time/rate"
)

// newLimiter returns a limiter of bytes per second, or nil for unlimited. Its burst is a twentieth of a second, at
// least one block and its framing, so that a cap holds over short spans too.
func newLimiter(perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), int(min(max(perSecond/20, 32<<10), 1<<20)))
}

// limitedConn counts every byte of a connection against limits that all connections of an Engine share. Waiting callers
// are served in order, so each connection gets its turn. It sits below TLS: handshakes and framing count too.
type limitedConn struct {
	net.Conn
	up, down *rate.Limiter
	ctx      context.Context // ends when the connection is closed
	cancel   context.CancelFunc
}

const limitStep = 16 << 10 // one turn of one connection

func limitConn(c net.Conn, up, down *rate.Limiter) net.Conn {
	if up == nil && down == nil {
		return c
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &limitedConn{Conn: c, up: up, down: down, ctx: ctx, cancel: cancel}
}

func (c *limitedConn) Read(b []byte) (int, error) {
	if c.down == nil {
		return c.Conn.Read(b)
	}
	n, err := c.Conn.Read(b[:min(len(b), limitStep)])
	if n > 0 {
		if werr := c.down.WaitN(c.ctx, n); werr != nil {
			return 0, net.ErrClosed
		}
	}
	return n, err
}

func (c *limitedConn) Write(b []byte) (done int, err error) {
	if c.up == nil {
		return c.Conn.Write(b)
	}
	for len(b) > 0 {
		step := b[:min(len(b), limitStep)]
		if err := c.up.WaitN(c.ctx, len(step)); err != nil {
			return done, net.ErrClosed
		}
		n, err := c.Conn.Write(step)
		done += n
		if err != nil {
			return done, err
		}
		b = b[n:]
	}
	return done, nil
}

func (c *limitedConn) Close() error {
	c.cancel()
	return c.Conn.Close()
}
