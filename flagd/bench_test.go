package flagd

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/internal/identity"
)

// BenchmarkOFREPSingle compares one evaluation over HTTP with a bare handler that gives a fixed answer of the same size,
// and with one that reads the request first. All are asked by the same lean client over 8 connections, in short turns,
// so that what differs is the server and not the moment. over-bare is requests per second beside the bare handler,
// the median over the turns.
func BenchmarkOFREPSingle(b *testing.B) {
	r := newWorld(b).server()
	r.put(boolFlag("half", 5000))
	body := `{"context":{"targetingKey":"user-1","country":"at"}}`
	fixed := r.do("POST", ofrepFlagPrefix+"half", body).body
	bare := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = io.WriteString(w, fixed)
	}
	reads := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		bare(w, r)
	}
	request := fmt.Appendf(nil, "POST %shalf HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		ofrepFlagPrefix, r.w.token, len(body), body)
	handlers := []http.Handler{http.HandlerFunc(bare), http.HandlerFunc(reads), r.Handler()}
	rates := make([][]float64, len(handlers))
	var all []time.Duration
	gangs := make([]*gang, len(handlers))
	for i, h := range handlers {
		srv := httptest.NewServer(h)
		defer srv.Close()
		gangs[i] = newGang(b, srv.Listener.Addr().String(), 8)
	}
	const turn = 500 // requests of each connection
	for b.Loop() {
		for i, g := range gangs {
			took, total := g.ask(b, request, turn)
			rates[i] = append(rates[i], float64(len(took))/total.Seconds())
			if i == len(gangs)-1 {
				all = append(all, took...)
			}
		}
	}
	slices.Sort(all)
	median := func(base int) float64 {
		var ratios []float64
		for k := range rates[base] {
			ratios = append(ratios, rates[len(handlers)-1][k]/rates[base][k])
		}
		slices.Sort(ratios)
		return ratios[len(ratios)/2]
	}
	slices.Sort(rates[len(handlers)-1])
	b.ReportMetric(median(0), "over-bare")
	b.ReportMetric(median(1), "over-reading")
	b.ReportMetric(rates[len(handlers)-1][len(rates[0])/2], "req/s")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}

// gang is a number of connections to one server.
type gang struct {
	conns []net.Conn
	in    []*bufio.Reader
}

func newGang(b *testing.B, address string, n int) *gang {
	g := &gang{}
	for range n {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { conn.Close() })
		g.conns, g.in = append(g.conns, conn), append(g.in, bufio.NewReader(conn))
	}
	return g
}

// ask sends a request n times over each connection and checks that each answer is whole and good.
func (g *gang) ask(b *testing.B, request []byte, n int) (took []time.Duration, total time.Duration) {
	var wg sync.WaitGroup
	each := make([][]time.Duration, len(g.conns))
	begun := time.Now()
	for c := range g.conns {
		wg.Go(func() {
			for range n {
				at := time.Now()
				if err := askOnce(g.conns[c], g.in[c], request); err != nil {
					b.Error(err)
					return
				}
				each[c] = append(each[c], time.Since(at))
			}
		})
	}
	wg.Wait()
	return slices.Concat(each...), time.Since(begun)
}

func askOnce(conn net.Conn, in *bufio.Reader, request []byte) error {
	if _, err := conn.Write(request); err != nil {
		return err
	}
	length, first := 0, true
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case err != nil:
			return err
		case first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")):
			return fmt.Errorf("answer %q", line)
		case len(line) == 2:
			_, err := in.Discard(length)
			return err
		}
		first = false
		if n, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			for _, c := range bytes.TrimSpace(n) {
				length = length*10 + int(c-'0')
			}
		}
	}
}

// BenchmarkHandler is the part of an evaluation that is ours.
func BenchmarkHandler(b *testing.B) {
	r := newWorld(b).server()
	r.put(boolFlag("half", 5000))
	body := []byte(`{"context":{"targetingKey":"user-1","country":"at"}}`)
	req := httptest.NewRequest("POST", ofrepFlagPrefix+"half", nil)
	req.Header.Set("Authorization", "Bearer "+r.w.token)
	req.ContentLength = int64(len(body))
	in := bytes.NewReader(body)
	req.Body = io.NopCloser(in)
	w := newRecorder()
	b.ReportAllocs()
	for b.Loop() {
		in.Reset(body)
		w.status = 0
		r.Handler().ServeHTTP(w, req)
	}
	if w.status != 200 {
		b.Fatalf("status %d", w.status)
	}
}

// BenchmarkKill measures the time from the request of a kill until each client, over TLS in this process, has it, and what
// an idle stream costs in memory, both ends together.
func BenchmarkKill(b *testing.B) {
	for _, clients := range []int{1000, 5000} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) { benchmarkKill(b, clients) })
	}
}

func benchmarkKill(b *testing.B, clients int) {
	r := newWorld(b).server(func(c *Config) { c.StreamRate = 1 << 20 })
	r.put(boolFlag("hot", 10000))
	arrived := make(chan time.Time, clients)
	before := memory()
	var wg sync.WaitGroup
	for range clients {
		conn := dialStream(b, r)
		wg.Go(func() {
			for in := bufio.NewScanner(conn); in.Scan(); {
				if line := in.Bytes(); bytes.HasPrefix(line, []byte("data: ")) && bytes.Contains(line, []byte(`"killed":{`)) && bytes.Contains(line, []byte(`"ack":true`)) {
					arrived <- time.Now()
				}
			}
		})
		b.Cleanup(func() { conn.Close() })
	}
	until(b, "all streams are open", func() bool { return r.hub.stats().native == clients })
	each := (memory() - before) / uint64(clients)
	var all []time.Duration
	for b.Loop() {
		begun := time.Now()
		r.kill("hot")
		for range clients {
			all = append(all, (<-arrived).Sub(begun))
		}
		b.StopTimer()
		if _, err := r.api().RestoreFlags(b.Context(), connect.NewRequest(&murmurv1.RestoreFlagsRequest{Key: "hot"})); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	slices.Sort(all)
	b.ReportMetric(float64(each)/1024, "KiB/stream")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}

// memory is what the process holds, in bytes: heap and stacks.
func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// dialStream opens a native stream on a bare connection.
func dialStream(tb testing.TB, r *running) net.Conn {
	tb.Helper()
	conn, err := tls.Dial("tcp", r.Addr(), identity.SeederClientConfig(r.w.ca.Pool(), nil, ""))
	if err != nil {
		tb.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /v1/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", r.w.token)
	return conn
}
