package swarm

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// BenchmarkFlashCrowd starts 20 hosts at once over mutual TLS, all in this process: on 32 MiB without limits, and on 8 MiB
// with 1 MiB/s up for every peer, where the physical bound is the seeder's 8 s. copies is what the seeder sent over the file's size.
// Run with -benchtime 1x.
func BenchmarkFlashCrowd(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
		rate int64
		deal int
	}{
		{"uncapped", 32 << 20, 0, 0}, {"uncapped-dealt", 32 << 20, 0, 64},
		{"capped", 8 << 20, 1 << 20, 0}, {"capped-dealt", 8 << 20, 1 << 20, 64},
	} {
		b.Run(c.name, func(b *testing.B) {
			rate := c.rate
			for b.Loop() {
				last, copies := flashCrowd(b, 20, c.size, rate, c.deal)
				b.ReportMetric(copies, "copies")
				if rate > 0 {
					b.ReportMetric(last.Seconds()/(float64(c.size)/float64(rate)), "x-bound")
				}
				b.ReportMetric(last.Seconds(), "last-s")
			}
		})
	}
}

// flashCrowd returns when the last of n hosts was done, and the copies that the seeder sent.
func flashCrowd(tb testing.TB, n, size int, rate int64, deal int) (last time.Duration, copies float64) {
	ca := newCA(tb)
	src, content := randomFile(tb, size, 60)
	conf := ca.config("seeder:a")
	conf.UpRate, conf.MaxPeers, conf.Deal = rate, 2*n, deal
	seeder := start(tb, conf)
	seed(tb, seeder, src)
	var hosts []*Engine
	peers := []Peer{seeder.peer()}
	for i := range n {
		conf := ca.config(fmt.Sprintf("host-%d", i))
		conf.UpRate = rate
		h := start(tb, conf)
		hosts, peers = append(hosts, h), append(peers, h.peer())
	}
	began := time.Now()
	var wg sync.WaitGroup
	for _, h := range hosts {
		dst := at(tb, src, peers...)
		wg.Go(func() {
			if err := h.Fetch(tb.Context(), dst, nil); err != nil {
				tb.Errorf("%s: %v", h.cfg.Name, err)
				return
			}
			sameContent(tb, dst.Path, content)
		})
	}
	wg.Wait()
	last = time.Since(began)
	st, _ := seeder.Stats(src.Infohash)
	return last, float64(st.Uploaded) / float64(size)
}
