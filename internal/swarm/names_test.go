package swarm

import (
	"testing"
	"time"
)

func TestNamesOutliveAddresses(t *testing.T) {
	now := time.Unix(1000, 0)
	n := newNames()
	a1, _ := n.outbound(Peer{"host-a", "10.0.0.1:7000"}, now)
	a2, _ := n.outbound(Peer{"host-a", "10.9.9.9:7001"}, now)
	b, _ := n.outbound(Peer{"host-b", "10.0.0.1:7002"}, now)
	if !a1.IP.Equal(a2.IP) || a1.IP.Equal(b.IP) {
		t.Errorf("addresses %v %v %v: want one per name, whatever the host address", a1, a2, b)
	}
	if in := n.inbound("host-a", 55555); !in.IP.Equal(a1.IP) {
		t.Errorf("a caller named host-a comes from %v, not %v", in, a1)
	}
	if p, err := n.lookup(a2.String()); err != nil || p.Addr != "10.9.9.9:7001" {
		t.Errorf("lookup: %+v, %v", p, err)
	}
	for _, bad := range []string{"", "nonsense", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:99999"} {
		if addr, ok := n.outbound(Peer{"x", bad}, now); ok {
			t.Errorf("address %q was accepted as %v", bad, addr)
		}
	}
}

func TestQuarantineGoesByNameAndEnds(t *testing.T) {
	now := time.Unix(1000, 0)
	n := newNames()
	before, _ := n.outbound(Peer{"host-a", "10.0.0.1:7000"}, now)
	banned := []string{before.IP.String(), "10.0.0.1", "junk"}
	if got := n.banned(banned, now); len(got) != 1 || got[0] != "host-a" {
		t.Fatalf("newly banned: %v", got)
	}
	if got := n.banned(banned, now); len(got) != 0 {
		t.Errorf("reported again: %v", got)
	}
	if _, ok := n.outbound(Peer{"host-a", "10.5.5.5:1"}, now); ok || !n.refused("host-a", now) {
		t.Error("a quarantined name came back under another address")
	}
	now = now.Add(quarantine + time.Second)
	after, ok := n.outbound(Peer{"host-a", "10.0.0.1:7000"}, now)
	if !ok || after.IP.Equal(before.IP) {
		t.Errorf("after quarantine: %v, %v; want a new address", after, ok)
	}
	if got := n.banned(banned, now); len(got) != 0 {
		t.Errorf("the old ban hit the new term: %v", got)
	}
}

func TestSilenceIsForgivenSlower(t *testing.T) {
	now := time.Unix(1000, 0)
	n := newNames()
	n.unanswered("host-a", now)
	if !n.refused("host-a", now.Add(time.Second)) || n.refused("host-a", now.Add(3*time.Second)) {
		t.Error("want 2 s after the first silence")
	}
	n.unanswered("host-a", now)
	if !n.refused("host-a", now.Add(3*time.Second)) || n.refused("host-a", now.Add(5*time.Second)) {
		t.Error("want 4 s after the second silence")
	}
	n.answered("host-a")
	if n.refused("host-a", now) {
		t.Error("an answer forgives")
	}
}
