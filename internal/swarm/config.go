package swarm

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
)

// Errors that Engine methods return, wrapped with the operation and the cause.
var (
	// ErrClosed: the Engine was closed.
	ErrClosed = errors.New("swarm: engine closed")
	// ErrBadInfo: an info dictionary is malformed, out of bounds or does not match the given infohash.
	ErrBadInfo = errors.New("swarm: bad info dictionary")
	// ErrStorage: reading or writing the file failed (disk full, read-only, ...). What was verified is kept;
	// call Fetch again when the cause is gone.
	ErrStorage = errors.New("swarm: storage failed")
	// ErrCorrupt: a file given to Seed does not match its piece hashes.
	ErrCorrupt = errors.New("swarm: file does not match its pieces")
	// ErrBusy: the torrent is already held at another path.
	ErrBusy = errors.New("swarm: torrent is held at another path")
	// ErrDropped: the torrent was dropped while it was being fetched.
	ErrDropped = errors.New("swarm: torrent dropped")
)

// Config says how an Engine works. It is copied by [New].
type Config struct {
	// Dir holds one small record per torrent: which pieces were verified. It is created (0700) when missing.
	Dir string
	// Listen is the address for peers, "host:port"; port 0 picks a free one, see [Engine.Addr].
	Listen string
	// Name is this peer's own name, as in its certificate: "host-7", "seeder:a".
	Name string

	// ServerTLS and ClientTLS return the TLS settings for one handshake. They are asked every time, so that a
	// rotated certificate or CA pool takes effect at the next connection. The engine adds what must not be forgotten
	// (TLS 1.3, client certificate required and verified). Both nil means plaintext, which the log says loudly.
	ServerTLS, ClientTLS func() (*tls.Config, error)
	// PeerName returns the identity in a peer's verified certificate. Required with TLS.
	PeerName func(tls.ConnectionState) (string, error)
	// Allowed says whether the peer of this name may take part in the torrent. It is asked for every TLS connection
	// after the peer names the torrent; nil allows every fleet member. It must be quick and safe for concurrent use.
	Allowed func(infohash [20]byte, peer string) bool

	// UpRate and DownRate limit bytes per second on the wire over all torrents; 0 is unlimited.
	UpRate, DownRate int64
	// MaxPeers limits connections per torrent; 0 means 40. On a seeder it is the fan-out.
	MaxPeers int
	// Deal makes [Engine.Seed] deal every piece once over at most so many connected hosts, instead of giving anybody
	// anything; hosts beyond it wait or live off the others. 0: seed as usual. For seeders that several hosts fetch from
	// at a time; a torrent that was fetched here is offered as usual.
	Deal int
	// Logger receives what operators need to know; nil discards.
	Logger *slog.Logger
}

// Peer is somebody who may hold pieces. Name is the identity its certificate must carry, and may be empty when it is
// not known; a name that starts with "seeder:" is counted as a seeder in [Progress].
type Peer struct{ Name, Addr string }

// Range is the half-open byte range [Off, Off+Len) of a file.
type Range struct{ Off, Len int64 }

// Spec is one torrent and where its file belongs.
type Spec struct {
	// Info is the bencoded info dictionary, as signed by the control plane.
	Info []byte
	// Infohash is the hexadecimal SHA-1 of Info; it is checked.
	Infohash string
	// Path is the final file. Its folder must exist. The part file is Path + ".part".
	Path string
	// Peers are known at the start; see [Engine.AddPeers].
	Peers []Peer
	// Fallback fetches [off, off+n) from the seeder in another way and writes exactly n bytes to w. It is the last
	// resort of a stalled Fetch: called for one run of missing pieces at a time, at most 4 MiB. nil: none.
	Fallback func(ctx context.Context, off, n int64, w io.Writer) error
	// Reuse writes bytes already known from disk at their place and returns the ranges it filled. It is called once, at
	// the start of a Fetch that has pieces missing; what it wrote is believed only after hashing. May be nil.
	Reuse func(ctx context.Context, w io.WriterAt) (filled []Range, err error)
}

// Progress counts bytes of one Fetch. FromPeers, FromSeeder and FromDisk say where they came from; the first two count
// blocks received, so bytes of a piece that failed its hash are in them but not in Done. Fallback is the last resort.
type Progress struct {
	Done, Total          int64
	FromPeers            int64
	FromSeeder, FromDisk int64
	Fallback             int64
}

// Stats describes one torrent held by an Engine.
type Stats struct {
	Progress
	// Complete: every piece is verified.
	Complete bool
	// Peers is the number of live connections.
	Peers int
	// Uploaded and Downloaded count block bytes on all connections so far; Wasted counts blocks received twice.
	Uploaded, Downloaded, Wasted int64
	// Silenced counts connections ended because requests stayed unanswered.
	Silenced int64
	// Quarantined names peers refused for bad data, over the whole Engine.
	Quarantined []string
}

// Meta is what an info dictionary says: lengths in bytes, and the number of pieces.
type Meta struct {
	Length, PieceLength int64
	Pieces              int
}
