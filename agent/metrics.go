package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

const (
	countEvery = 5 * time.Second
	// countRetry is the most time between two tries of a service that has no counters to read.
	countRetry  = 5 * time.Minute
	maxCounters = 64
	maxMetrics  = 4 << 20
)

// countAll reads the counters of the local services every few seconds and reports them.
func (a *Agent) countAll(ctx context.Context) {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute}}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	after := map[string]time.Time{} // when a service without counters is tried again
	pause := map[string]time.Duration{}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for service, t := range a.countTargets(ctx) {
				key := service + "/" + t.release
				if now.Before(after[key]) {
					continue
				}
				counters, err := readCounters(ctx, client, t.url)
				if err != nil {
					pause[key] = min(max(2*pause[key], countEvery), countRetry)
					after[key] = now.Add(pause[key])
					continue
				}
				delete(pause, key)
				delete(after, key)
				a.out.put("counters/"+service, &murmurv1.AttachRequest{Report: &murmurv1.AttachRequest_Counters{Counters: &murmurv1.CounterReport{
					Service: service, ReleaseId: t.release, At: timestamppb.New(now), Counters: counters,
				}}})
			}
		}
	}
}

type countTarget struct{ url, release string }

// countTargets says where the counters of each running service are.
func (a *Agent) countTargets(ctx context.Context) map[string]countTarget {
	out := map[string]countTarget{}
	// On error the agent ends, and nothing is counted.
	_ = a.ask(ctx, func(l *loop) {
		for name, h := range l.units {
			if !h.snap.Run.Running || h.busy {
				continue
			}
			if url := h.snap.Metrics; url != "" {
				out[name] = countTarget{url, h.snap.Journal.Active}
			}
		}
	})
	return out
}

// metricsURL is where a service without a configured address would have its counters.
func metricsURL(addrs map[string]string, first string) string {
	host, port, err := net.SplitHostPort(addrs[first])
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port) + "/metrics"
}

// readCounters reads the Prometheus text format (version 0.0.4) and keeps what only grows: counters, and the
// buckets, counts and sums of histograms.
func readCounters(ctx context.Context, client *http.Client, url string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return parseCounters(io.LimitReader(resp.Body, maxMetrics))
}

var errNoCounters = errors.New("the answer holds no counters in the Prometheus text format")

// parseCounters keeps at most 64 series; those of the language's runtime and of the process are left out.
func parseCounters(r io.Reader) (map[string]float64, error) {
	grows := map[string]bool{}
	out := map[string]float64{}
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 16<<10), 256<<10)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if f := strings.Fields(line); len(f) == 4 && f[0] == "#" && f[1] == "TYPE" {
			grows[f[2]] = f[3] == "counter"
			if f[3] == "histogram" {
				grows[f[2]+"_bucket"], grows[f[2]+"_count"], grows[f[2]+"_sum"] = true, true, true
			}
			continue
		}
		if line == "" || line[0] == '#' || len(out) >= maxCounters {
			continue
		}
		if series, v, ok := parseSample(line); ok && grows[familyOf(series)] && !ofRuntime(series) {
			out[series] = v
		}
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, errNoCounters
	}
	return out, nil
}

// parseSample splits `name{labels} value [timestamp]`.
func parseSample(line string) (series string, v float64, ok bool) {
	end := strings.LastIndexByte(line, '}') + 1
	if end == 0 {
		end = strings.IndexAny(line, " \t")
	}
	if end <= 0 {
		return "", 0, false
	}
	f := strings.Fields(line[end:])
	if len(f) == 0 || len(f) > 2 {
		return "", 0, false
	}
	v, err := strconv.ParseFloat(f[0], 64)
	return line[:end], v, err == nil && v >= 0
}

func familyOf(series string) string {
	name, _, _ := strings.Cut(series, "{")
	return name
}

func ofRuntime(series string) bool {
	return strings.HasPrefix(series, "go_") || strings.HasPrefix(series, "process_") || strings.HasPrefix(series, "promhttp_")
}

// Metrics writes the agent's own numbers in the Prometheus text format.
func (a *Agent) Metrics(w http.ResponseWriter, r *http.Request) {
	var s Status
	if err := a.ask(r.Context(), func(l *loop) { s = l.status() }); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	attached := 0
	if s.Seeder != "" {
		attached = 1
	}
	lines := []string{
		fmt.Sprintf("murmur_agent_attached %d", attached),
		fmt.Sprintf("murmur_agent_disk_free_bytes %d", s.DiskFree),
		fmt.Sprintf("murmur_agent_heap_bytes %d", mem.HeapAlloc),
		fmt.Sprintf("murmur_agent_goroutines %d", runtime.NumGoroutine()),
		fmt.Sprintf("murmur_agent_order_revision %d", s.Revision),
	}
	for _, sv := range s.Services {
		up := 0
		if sv.State == StateRunning {
			up = 1
		}
		lines = append(lines,
			fmt.Sprintf("murmur_agent_service_up{service=%q,release=%q} %d", sv.Service, sv.Active, up),
			fmt.Sprintf("murmur_agent_service_restarts{service=%q,release=%q} %d", sv.Service, sv.Active, sv.Restarts),
			fmt.Sprintf("murmur_agent_service_drifted_files{service=%q} %d", sv.Service, len(sv.Drifted)))
	}
	sort.Strings(lines)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintln(w, strings.Join(lines, "\n")) // the reader is gone if this fails
}

// Healthy answers 200 while the agent's loop turns.
func (a *Agent) Healthy(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if err := a.ask(ctx, func(*loop) {}); err != nil {
		http.Error(w, "the agent's loop does not turn", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// Ready answers 200 while a seeder has told this host what it should be.
func (a *Agent) Ready(w http.ResponseWriter, _ *http.Request) {
	if a.Seeder() == "" {
		http.Error(w, "not attached to a seeder; services run on", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}
