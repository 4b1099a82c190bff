package swarm

import "testing"

func TestEarlyPeersAreKeptWithinBounds(t *testing.T) {
	e := earlyPeers{}
	hash := func(i int) [20]byte { return [20]byte{byte(i), byte(i >> 8), 1} }
	e.add(hash(0), []Peer{{Name: "a", Addr: "127.0.0.1:1"}})
	e.add(hash(0), []Peer{{Name: "b", Addr: "127.0.0.1:2"}})
	if got := e.take(hash(0)); len(got) != 2 || got[1].Name != "b" {
		t.Errorf("kept %v, want both in order", got)
	}
	if got := e.take(hash(0)); got != nil {
		t.Errorf("taken twice: %v", got)
	}
	for i := range 10 * maxEarlyTorrents {
		for j := range 3 {
			e.add(hash(i), make([]Peer, maxEarlyPeers*2/3+j))
		}
		if len(e) > maxEarlyTorrents || len(e[hash(i)]) > maxEarlyPeers {
			t.Fatalf("%d torrents, %d peers kept", len(e), len(e[hash(i)]))
		}
	}
}

// TestPeersToldBeforeTheFetch tells a host whom to ask before it begins to fetch, and never again.
func TestPeersToldBeforeTheFetch(t *testing.T) {
	ca := newCA(t)
	src, content := randomFile(t, 1<<20, 7)
	seeder := start(t, ca.config("seeder:a"))
	seed(t, seeder, src)
	h := start(t, ca.config("host-1"))
	h.AddPeers(src.Infohash, []Peer{seeder.peer()})
	dst := at(t, src)
	if err := h.Fetch(t.Context(), dst, nil); err != nil {
		t.Fatal(err)
	}
	sameContent(t, dst.Path, content)
}
