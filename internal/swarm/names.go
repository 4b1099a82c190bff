package swarm

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// names gives every peer identity an address that only the engine sees. The engine thinks in IP addresses: it bans
// them, prefers them, counts connections by them. One made-up address per certificate name makes all of that work by name.
type names struct {
	mu    sync.Mutex
	term  map[string]uint32       // how often a name came out of quarantine; part of its address
	peers map[netip.AddrPort]Peer // where the engine's addresses lead
	byIP  map[netip.Addr]string   // name of every address given out
	bad   map[string]time.Time    // quarantined until
	shy   map[string]shyness      // peers that did not answer, not to be asked for a while
}

type shyness struct {
	until time.Time
	times int
}

const (
	quarantine    = 10 * time.Minute
	maxShy        = 2 * time.Minute
	maxNames      = 100_000
	seederPrefix  = "seeder:"
	unnamedPrefix = "addr:"
)

func newNames() *names {
	return &names{
		term: map[string]uint32{}, peers: map[netip.AddrPort]Peer{}, byIP: map[netip.Addr]string{},
		bad: map[string]time.Time{}, shy: map[string]shyness{},
	}
}

// ipLocked returns the address of a name in its current term: fd6d:7572 and 96 bits of hash.
func (n *names) ipLocked(name string) netip.Addr {
	var seed [4]byte
	binary.BigEndian.PutUint32(seed[:], n.term[name])
	sum := sha256.Sum256(append(seed[:], name...))
	ip := [16]byte{0xfd, 0x6d, 'u', 'r'}
	copy(ip[4:], sum[:12])
	addr := netip.AddrFrom16(ip)
	if len(n.byIP) >= maxNames {
		clear(n.byIP) // refills as peers are offered and call
	}
	n.byIP[addr] = name
	return addr
}

// inbound returns the address for a connection from the named peer.
func (n *names) inbound(name string, port int) *net.TCPAddr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(n.ipLocked(name), uint16(port)))
}

// outbound returns the address under which the engine may dial p, and false when p is unusable or to be left alone now.
func (n *names) outbound(p Peer, now time.Time) (*net.TCPAddr, bool) {
	_, port, err := net.SplitHostPort(p.Addr)
	if err != nil {
		return nil, false
	}
	num, err := net.LookupPort("tcp", port)
	if err != nil || num == 0 {
		return nil, false
	}
	name := p.Name
	if name == "" {
		name = unnamedPrefix + p.Addr
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refusedLocked(name, now) {
		return nil, false
	}
	if len(n.peers) >= maxNames {
		clear(n.peers) // refills as peers are offered again
	}
	ap := netip.AddrPortFrom(n.ipLocked(name), uint16(num))
	n.peers[ap] = p
	return net.TCPAddrFromAddrPort(ap), true
}

// lookup returns the peer behind an address from outbound.
func (n *names) lookup(addr string) (Peer, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return Peer{}, fmt.Errorf("swarm: dial %s: %w", addr, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.peers[ap]
	if !ok {
		return Peer{}, fmt.Errorf("swarm: dial %s: not a peer of this engine", addr)
	}
	return p, nil
}

// nameOf returns the name behind an address that the engine shows, or "".
func (n *names) nameOf(addr string) string {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return ""
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.byIP[ap.Addr().Unmap()]
}

func (n *names) refused(name string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refusedLocked(name, now)
}

func (n *names) refusedLocked(name string, now time.Time) bool {
	if until, ok := n.bad[name]; ok {
		if now.Before(until) {
			return true
		}
		delete(n.bad, name)
		n.term[name]++ // the engine never forgives an address
	}
	return now.Before(n.shy[name].until)
}

// banned puts the names behind addresses that the engine banned in quarantine and returns those that are new to it.
func (n *names) banned(ips []string, now time.Time) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var fresh []string
	for _, s := range ips {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			continue
		}
		name, ok := n.byIP[ip]
		if !ok || n.ipLocked(name) != ip {
			continue // plaintext peer, or a term that is over
		}
		if _, known := n.bad[name]; !known {
			n.bad[name] = now.Add(quarantine)
			fresh = append(fresh, name)
		}
	}
	return fresh
}

func (n *names) quarantined(now time.Time) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for name, until := range n.bad {
		if now.Before(until) {
			out = append(out, name)
		}
	}
	return out
}

// unanswered notes that a peer left requests without answer; it is left alone for a time that doubles from 2 s:
// short at first, since a busy peer looks the same.
func (n *names) unanswered(name string, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.shy[name]
	s.times = min(s.times+1, 7)
	s.until = now.Add(min(time.Second<<s.times, maxShy))
	n.shy[name] = s
}

// answered forgets what unanswered noted.
func (n *names) answered(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.shy, name)
}

func isSeeder(name string) bool { return strings.HasPrefix(name, seederPrefix) }
