package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load asks every host of a fleet, over kept connections and new ones, until it is stopped.
type load struct {
	client *http.Client
	ok     atomic.Int64
	mu     sync.Mutex
	failed []string
	stop   chan struct{}
	done   sync.WaitGroup
}

func startLoad(hosts []*host, workers int) *load {
	l := &load{stop: make(chan struct{}), client: &http.Client{
		Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: workers},
	}}
	for w := range workers {
		l.done.Go(func() {
			for turn := w; ; turn++ {
				select {
				case <-l.stop:
					return
				default:
					l.ask(hosts[turn%len(hosts)].url, turn%4 == 0)
				}
			}
		})
	}
	return l
}

func (l *load) ask(url string, fresh bool) {
	if err := l.get(url, fresh); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.failed = append(l.failed, fmt.Sprintf("%s %v", time.Now().Format("15:04:05.000"), err))
		return
	}
	l.ok.Add(1)
}

func (l *load) get(url string, fresh bool) error {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Close = fresh
	resp, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err == nil && (resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(body), "hello from v")) {
		err = fmt.Errorf("status %d: %q", resp.StatusCode, body)
	}
	return err
}

func (l *load) end() {
	close(l.stop)
	l.done.Wait()
	l.client.CloseIdleConnections()
}

// TestRestartUnderLoad upgrades two hosts three times and takes them back once, under at least 20,000 requests.
// None may fail.
func TestRestartUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("20,000 requests through four restarts of two hosts")
	}
	t.Parallel()
	f := newFleet(t, 2)
	f.deploy(t, "v1")
	l := startLoad(f.hosts, 6)
	upgrades := 0
	for _, version := range []string{"v2", "v3", "v4"} {
		f.deploy(t, version)
		upgrades++
	}
	f.murmur(t, "service", "rollback", "hello", "--reason", t.Name())
	f.allSay(t, "v3")
	f.murmur(t, "service", "unlock", "hello")
	for l.ok.Load() < 20_000 && len(l.failed) == 0 {
		f.deploy(t, fmt.Sprintf("v%d", 3+upgrades%2))
		upgrades++
	}
	l.end()
	if len(l.failed) > 0 {
		t.Errorf("%d requests failed: %s", len(l.failed), strings.Join(l.failed[:min(5, len(l.failed))], "; "))
	}
	t.Logf("%d requests through %d upgrades and a rollback, %d failed", l.ok.Load(), upgrades, len(l.failed))
	if upgrades < 3 || l.ok.Load() < 20_000 {
		t.Errorf("%d requests through %d upgrades are too few to say anything", l.ok.Load(), upgrades)
	}
}
