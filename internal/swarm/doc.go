// Package swarm carries one file from few hosts to many by BitTorrent (BEP 3), inside mutual TLS.
//
// It is the only package that knows the torrent engine. An [Engine] holds every torrent of one process:
// [Engine.Seed] offers a complete file, [Engine.Fetch] brings one here and goes on offering it.
//
// # What a caller may rely on
//
//   - A file appears at [Spec.Path] only when every piece matched its hash and the bytes are on disk (fsync);
//     until then they live beside it, with the suffix ".part". SHA-1 is transport: the caller checks its own digest.
//   - A process may be killed at any moment. The next Fetch of the same torrent takes up what was verified: pieces
//     on record are believed, the others found in the part file are hashed, and only what fails is asked for again.
//   - With TLS, an address is nobody: a peer is the name in its certificate. The engine sees one made-up IPv6 address
//     per name (prefix fd6d:7572::/32), so its bans by address become quarantine by certificate, also behind one NAT.
//   - A dead address, a peer that accepts and says nothing, and a peer that lies cost bounded time: unanswered requests
//     end the connection after a time derived from the measured gaps between blocks (2 to 10 s), peers are offered to
//     the engine again every 1.5 s, and when nothing at all moves the last resort [Spec.Fallback] fetches a few pieces,
//     logged and counted in [Progress.Fallback].
//   - A seeder with [Config.Deal] sends every piece once, to whoever asks next, and the hosts exchange the rest. What dies with a
//     host is dealt again, what is late is dealt twice, and a host that gets nothing from the others gets all from the seeder.
//   - Rate limits hold for all torrents of the Engine together and count every byte on the wire, TLS included.
//
// DHT, uTP, UPnP, PEX, WebTorrent, web seeds and trackers are off: peers are told through [Spec.Peers] and
// [Engine.AddPeers].
//
// # Lock order
//
// Engine.mu, then task.mu; the torrent engine's own lock may be held when its callbacks run, so callbacks
// touch only watch.mu and atomics. Storage locks (store) are leaves.
//
// Tests of consumers use package swarmtest, a fake with the same methods that copies from a registered file.
package swarm
