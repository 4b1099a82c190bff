package swarm

import (
	"fmt"
	"sync"
	"testing"
)

func TestOneSeederEightLeechers(t *testing.T) {
	ca := newCA(t)
	src, content := randomFile(t, 8<<20+12345, 1)
	seeder := start(t, ca.config("seeder:a"))
	seed(t, seeder, src)

	var hosts []*Engine
	peers := []Peer{seeder.peer()}
	for i := range 8 {
		h := start(t, ca.config(fmt.Sprintf("host-%d", i)))
		hosts = append(hosts, h)
		peers = append(peers, h.peer())
	}
	var wg sync.WaitGroup
	for _, h := range hosts {
		dst := at(t, src, peers...)
		wg.Go(func() {
			var last Progress
			if err := h.Fetch(t.Context(), dst, func(p Progress) { last = p }); err != nil {
				t.Errorf("%s: %v", h.cfg.Name, err)
				return
			}
			sameContent(t, dst.Path, content)
			if got := last.FromPeers + last.FromSeeder; got < last.Total {
				t.Errorf("%s: %d bytes received for a file of %d", h.cfg.Name, got, last.Total)
			}
		})
	}
	wg.Wait()
	st, _ := seeder.Stats(src.Infohash)
	t.Logf("seeder sent %.2f copies", float64(st.Uploaded)/float64(len(content)))
	if st.Uploaded >= 8*int64(len(content)) {
		t.Errorf("seeder sent %d bytes: hosts did not exchange anything", st.Uploaded)
	}
}
