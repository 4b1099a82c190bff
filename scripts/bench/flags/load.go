package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/murmuration/murmuration/scripts/bench/rows"
)

const (
	bulkPath   = "/ofrep/v1/evaluate/flags"
	singlePath = bulkPath + "/" + dialFlag
	// contextBody is what every evaluation asks with.
	contextBody = `{"context":{"targetingKey":"user-1","country":"pt","plan":"free"}}`
	burst       = 500 * time.Millisecond // that a subject is asked at a stretch
)

// target is one subject of the HTTP scenarios.
type target struct {
	name, address, token string
}

// request is the bytes of one HTTP request.
func (t target) request(path string) []byte {
	auth := ""
	if t.token != "" {
		auth = "Authorization: Bearer " + t.token + "\r\n"
	}
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, t.address, auth, len(contextBody), contextBody)
}

// burstOf asks one subject over some connections for a while. It returns the answers per second and the times in ms.
func burstOf(t target, path string, conns int) (rate float64, took []float64, err error) {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	begun := time.Now()
	for range conns {
		wg.Go(func() {
			mine, err := askOver(t, path, begun.Add(burst))
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		return 0, nil, fmt.Errorf("%s: %w", t.name, errs[0])
	}
	return float64(len(took)) / time.Since(begun).Seconds(), took, nil
}

// askOver asks over one connection until the deadline.
func askOver(t target, path string, until time.Time) ([]float64, error) {
	conn, err := net.Dial("tcp", t.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	in, request := bufio.NewReaderSize(conn, 16<<10), t.request(path)
	var took []float64
	for {
		start := time.Now()
		if start.After(until) {
			return took, nil
		}
		if _, err := conn.Write(request); err != nil {
			return nil, err
		}
		if err := skipAnswer(in); err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(start).Nanoseconds())/1e6)
	}
}

// skipAnswer reads one answer with a Content-Length or in chunks, and looks only at its status.
func skipAnswer(in *bufio.Reader) error {
	status, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200")) {
		return fmt.Errorf("answered %s", bytes.TrimSpace(status))
	}
	length, chunked := 0, false
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case len(name) == 14 && bytes.EqualFold(name, []byte("Content-Length")):
			length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
		case len(name) == 17 && bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		}
	}
	if !chunked {
		_, err = in.Discard(length)
		return err
	}
	return skipChunks(in)
}

func skipChunks(in *bufio.Reader) error {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimRight(line, "\r\n")), 16, 32)
		if err != nil {
			return err
		}
		if _, err := in.Discard(int(n) + 2); err != nil || n == 0 {
			return err
		}
	}
}

// benchHTTP measures single and bulk evaluations of all subjects in turns.
func benchHTTP(ctx context.Context, o options) ([]rows.Row, error) {
	w, err := newWorld(ctx, definitions(100))
	if err != nil {
		return nil, err
	}
	defer w.close()
	targets := []target{{"murmur", w.flagd.Plain, w.flagd.Read}}
	answers, err := saveAnswers(ctx, w, targets[0])
	if err != nil {
		return nil, err
	}
	for _, what := range []string{"bare", "bare-json"} {
		p, err := spawn("-what", what, "-answers", answers)
		if err != nil {
			return nil, err
		}
		defer p.stop()
		targets = append(targets, target{name: what, address: p.Plain})
	}
	var out []rows.Row
	if !o.noGoff {
		relay, err := startGoff(ctx, w.dir, definitions(100))
		if err != nil {
			fmt.Fprintf(os.Stderr, "GO Feature Flag's relay is left out: %v\n", err)
		} else {
			defer relay.stop()
			targets = append(targets, target{name: "goff", address: relay.address})
		}
	}
	for _, sc := range []struct{ name, path string }{{"http-single", singlePath}, {"http-bulk", bulkPath}} {
		for _, conns := range []int{1, 8, 64} {
			r, err := inTurns(ctx, fmt.Sprintf("%s-c%d", sc.name, conns), sc.path, conns, targets, o.rounds)
			if err != nil {
				return nil, err
			}
			out = append(out, r...)
		}
	}
	return out, nil
}

// saveAnswers stores what flagd answers, for the bare subjects to repeat.
func saveAnswers(ctx context.Context, w *world, t target) (string, error) {
	var text strings.Builder
	for _, path := range []string{singlePath, bulkPath} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+t.address+path, strings.NewReader(contextBody))
		if err != nil {
			return "", err
		}
		req.Header.Set("Authorization", "Bearer "+t.token)
		resp, err := w.http.Do(req)
		if err != nil {
			return "", err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return "", fmt.Errorf("%s: %s %w", path, resp.Status, err)
		}
		fmt.Fprintf(&text, "%s\t%s\n", path, bytes.TrimSpace(body))
	}
	file := filepath.Join(w.dir, "answers")
	return file, os.WriteFile(file, []byte(text.String()), 0o600)
}

// inTurns measures one scenario; the order of the subjects turns with the rounds.
func inTurns(ctx context.Context, name, path string, conns int, targets []target, rounds int) ([]rows.Row, error) {
	rates, took := map[string][]float64{}, map[string][]float64{}
	for round := range rounds + 1 {
		for i := range targets {
			t := targets[(i+round)%len(targets)]
			rate, ms, err := burstOf(t, path, conns)
			if err != nil {
				return nil, err
			}
			if round > 0 { // the first round warms up
				rates[t.name], took[t.name] = append(rates[t.name], rate), append(took[t.name], ms...)
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	var out []rows.Row
	for _, over := range []struct{ metric, subject string }{{"over_bare_handler", "bare"}, {"over_bare_json", "bare-json"}, {"over_goff", "goff"}} {
		if len(rates[over.subject]) > 0 {
			out = append(out, rows.New(name, "murmur", over.metric, ratio(rates["murmur"], rates[over.subject]), "x"))
		}
	}
	for _, t := range targets {
		slices.Sort(took[t.name])
		out = append(out,
			rows.New(name, t.name, "req_per_s", median(rates[t.name]), "1/s"),
			rows.New(name, t.name, "p50_ms", quantile(took[t.name], 0.5), "ms"),
			rows.New(name, t.name, "p99_ms", quantile(took[t.name], 0.99), "ms"))
	}
	return out, nil
}

// ratio is the median of the ratios within each round.
func ratio(of, over []float64) float64 {
	var all []float64
	for i := range of {
		all = append(all, of[i]/over[i])
	}
	return median(all)
}
