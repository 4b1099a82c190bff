package swarm

// earlyPeers keeps what was told about torrents that are not held yet: whoever pushes peers does so when a host is
// told to fetch, which may be a moment before its Fetch begins, and does not say it again until something changes.
// It is guarded by Engine.mu.
type earlyPeers map[[20]byte][]Peer

// Bounds of what is kept: the oldest torrent is not known, so a full table forgets all, as if it had never heard.
const (
	maxEarlyTorrents = 64
	maxEarlyPeers    = 256
)

func (e earlyPeers) add(hash [20]byte, peers []Peer) {
	if _, known := e[hash]; !known && len(e) >= maxEarlyTorrents {
		clear(e)
	}
	kept := append(e[hash], peers...)
	e[hash] = kept[max(0, len(kept)-maxEarlyPeers):]
}

// take returns what is kept about a torrent and forgets it.
func (e earlyPeers) take(hash [20]byte) []Peer {
	peers := e[hash]
	delete(e, hash)
	return peers
}
