package flagd

import (
	"cmp"
	"errors"
	"log/slog"
	"time"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
)

// Config is what a [Server] is made of. Store, Authority, ID and Dir are needed; the zero value of the rest works.
type Config struct {
	Store record.Store
	// Authority says who may read and write, and audits. The caller runs it ([identity.Authority.Run]).
	Authority *identity.Authority
	// ID names this server in its certificate and in messages, for example "flagd-1".
	ID string
	// Dir holds the disk copy. It is made if need be, with mode 0700.
	Dir string
	// Listen is the address to serve on, over TLS. Default "127.0.0.1:0". "none" opens no listener: the caller
	// serves [Server.Handler] itself.
	Listen string
	// Names are what the server's certificate is valid for besides the host of Listen.
	Names []string
	// Cert returns the certificate to present. Default: one of the fleet's CA, renewed by itself.
	Cert identity.CertFunc
	// MaxStreams is how many event streams may be open at once. Default 20,000.
	MaxStreams int
	// StreamRate is how many new event streams are admitted per second; a second's worth may come at once.
	// Default 2,000.
	StreamRate int
	// DrainTimeout bounds the graceful stop. Default 5 s.
	DrainTimeout time.Duration
	Log          *slog.Logger

	pace pace
}

// NoListener as Config.Listen opens no listener.
const NoListener = "none"

// pace holds the times of the protocol; only tests change them.
type pace struct {
	contact   time.Duration // between two looks whether the store answers
	stale     time.Duration // without contact, after which answers say how old they are
	catchUp   time.Duration // that a request waits for a revision this server has not reached
	heartbeat time.Duration // of streams
	write     time.Duration // that one write to a stream may take
	life      time.Duration // of a stream, about
	trusted   time.Duration // that a checked credential is not checked again
}

func (c *Config) applyDefaults() error {
	if c.Store == nil || c.Authority == nil || c.ID == "" || c.Dir == "" {
		return errors.New("flagd: Store, Authority, ID and Dir are needed")
	}
	c.Listen = cmp.Or(c.Listen, "127.0.0.1:0")
	if c.MaxStreams <= 0 {
		c.MaxStreams = 20_000
	}
	if c.StreamRate <= 0 {
		c.StreamRate = 2_000
	}
	if c.DrainTimeout <= 0 {
		c.DrainTimeout = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.pace = pace{
		contact: cmp.Or(c.pace.contact, 5*time.Second), stale: cmp.Or(c.pace.stale, 15*time.Second),
		catchUp: cmp.Or(c.pace.catchUp, 2*time.Second), heartbeat: cmp.Or(c.pace.heartbeat, 15*time.Second),
		write: cmp.Or(c.pace.write, 10*time.Second), life: cmp.Or(c.pace.life, time.Hour),
		trusted: cmp.Or(c.pace.trusted, time.Second),
	}
	return nil
}
