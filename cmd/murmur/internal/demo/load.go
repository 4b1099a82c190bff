package demo

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// load is the demo's traffic: workers that ask every host's service in turn and count what they hear. A
// request fails when it is refused, reset, timed out or answered with anything but 200.
type load struct {
	client *http.Client
	// pause is between two requests of one worker.
	pause time.Duration

	ok, failed atomic.Int64
	mu         sync.Mutex
	targets    map[string]string // host name -> base URL
	versions   map[string]string // host name -> last answer
	failures   []string          // the last few, for the report
	watched    string            // a text to look for in answers, and when it was last there
	seen       time.Time

	cancel context.CancelFunc
	done   sync.WaitGroup
}

func newLoad() *load {
	return &load{
		client:   &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: 5 * time.Second}},
		pause:    2 * time.Millisecond,
		targets:  map[string]string{},
		versions: map[string]string{},
	}
}

// start begins traffic with n workers; add may be called before and after.
func (l *load) start(ctx context.Context, n int) {
	ctx, l.cancel = context.WithCancel(ctx)
	for worker := range n {
		l.done.Go(func() { l.work(ctx, worker) })
	}
}

func (l *load) stop() {
	if l.cancel != nil {
		l.cancel()
		l.done.Wait()
	}
	l.client.CloseIdleConnections()
}

func (l *load) add(host, url string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.targets[host] = url
}

func (l *load) work(ctx context.Context, turn int) {
	for ; ctx.Err() == nil; turn++ {
		if host, url := l.pick(turn); url != "" {
			l.ask(ctx, host, url, turn%2 == 0)
		}
		select {
		case <-ctx.Done():
		case <-time.After(l.pause):
		}
	}
}

func (l *load) pick(turn int) (host, url string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := turn % max(1, len(l.targets))
	for host, url := range l.targets {
		if n == 0 {
			return host, url
		}
		n--
	}
	return "", ""
}

// ask makes one request. Every other one asks for a new connection: kept ones alone would not notice a
// listener that was gone for a moment.
func (l *load) ask(ctx context.Context, host, url string, fresh bool) {
	body, err := l.get(ctx, url, fresh)
	if ctx.Err() != nil {
		return // the end of the traffic, not a failure
	}
	if err != nil {
		l.failed.Add(1)
		l.mu.Lock()
		l.failures = append(l.failures[max(0, len(l.failures)-9):], fmt.Sprintf("%s %s: %v", time.Now().Format("15:04:05.000"), host, err))
		l.mu.Unlock()
		return
	}
	l.ok.Add(1)
	l.mu.Lock()
	l.versions[host] = body
	if l.watched != "" && strings.Contains(body, l.watched) {
		l.seen = time.Now()
	}
	l.mu.Unlock()
}

// watch begins to note when an answer with this text came last.
func (l *load) watch(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watched, l.seen = text, time.Time{}
}

// lastSeen is when the watched text was last in an answer, and ends the watch.
func (l *load) lastSeen() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watched = ""
	return l.seen
}

func (l *load) get(ctx context.Context, url string, fresh bool) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Close = fresh
	resp, err := l.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d: %s", resp.StatusCode, strings.TrimSpace(string(body)))
	}
	return strings.TrimSpace(string(body)), nil
}

// counted is what was answered and refused since the last call of mark.
type counted struct{ ok, failed int64 }

func (l *load) mark() counted { return counted{l.ok.Load(), l.failed.Load()} }

func (l *load) since(m counted) counted {
	return counted{l.ok.Load() - m.ok, l.failed.Load() - m.failed}
}

// lastFailures returns what failed last, for the report.
func (l *load) lastFailures() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.failures...)
}

// says sums up what hosts answered last: "v1 x3, v2 x9".
func (l *load) says() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := map[string]int{}
	for _, body := range l.versions {
		version, _, _ := strings.Cut(strings.TrimPrefix(body, "hello from "), ",")
		counts[version]++
	}
	var parts []string
	for _, v := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s x%d", v, counts[v]))
	}
	return strings.Join(parts, ", ")
}
