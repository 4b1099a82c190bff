package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	pb "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/scripts/bench/rows"
)

const (
	window    = 5 * time.Minute
	heartbeat = 15 * time.Second // of flagd's streams
	pollEvery = 10 * time.Second
)

// meter is a connection that counts what goes over it, both ways.
type meter struct {
	net.Conn
	n atomic.Int64
}

func dialMeter(address string) (*meter, error) {
	conn, err := net.Dial("tcp", address)
	return &meter{Conn: conn}, err
}

// Read counts.
func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.n.Add(int64(n))
	return n, err
}

// Write counts.
func (m *meter) Write(p []byte) (int, error) {
	n, err := m.Conn.Write(p)
	m.n.Add(int64(n))
	return n, err
}

// took is what went over the wire since the last call.
func (m *meter) took() float64 { return float64(m.n.Swap(0)) }

// benchBytes measures the sizes of all messages of a client that follows 100 flags, over plain HTTP/1.1, and computes what
// five minutes with one change cost: with the stream, and with polls every 10 s; for a client that is up to date
// when they begin, and for one that has nothing yet.
func benchBytes(ctx context.Context, _ options) ([]rows.Row, error) {
	w, err := newWorld(ctx, definitions(100))
	if err != nil {
		return nil, err
	}
	defer w.close()
	full, unchanged, err := pollSizes(ctx, w)
	if err != nil {
		return nil, err
	}
	begin, change, beat, err := streamSizes(ctx, w)
	if err != nil {
		return nil, err
	}
	const computed = "B, computed from measured sizes"
	beats, polls := float64(window/heartbeat), float64(window/pollEvery)
	return []rows.Row{
		rows.New("bytes-sizes", "murmur", "stream_begin", begin, "B"),
		rows.New("bytes-sizes", "murmur", "stream_change", change, "B"),
		rows.New("bytes-sizes", "murmur", "stream_heartbeat", beat, "B"),
		rows.New("bytes-sizes", "murmur", "poll_full", full, "B"),
		rows.New("bytes-sizes", "murmur", "poll_unchanged", unchanged, "B"),
		rows.New("bytes-5min-one-change", "stream", "bytes", change+beats*beat, computed),
		rows.New("bytes-5min-one-change", "poll-10s", "bytes", polls*full, computed),
		rows.New("bytes-5min-one-change", "poll-10s-etag", "bytes", full+(polls-1)*unchanged, computed),
		rows.New("bytes-5min-from-nothing", "stream", "bytes", begin+change+beats*beat, computed),
		rows.New("bytes-5min-from-nothing", "poll-10s", "bytes", polls*full, computed),
		rows.New("bytes-5min-from-nothing", "poll-10s-etag", "bytes", 2*full+(polls-2)*unchanged, computed),
	}, nil
}

// pollSizes measures a poll that gets everything, compressed, and one that hears that nothing changed.
func pollSizes(ctx context.Context, w *world) (full, unchanged float64, err error) {
	conn, err := dialMeter(w.flagd.Plain)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	client := &http.Client{Transport: &http.Transport{
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableCompression: true, // ours to ask for: what counts are the bytes on the wire
	}}
	etag := ""
	for _, want := range []int{http.StatusOK, http.StatusNotModified} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.flagd.Plain+"/v1/snapshot", nil)
		if err != nil {
			return 0, 0, err
		}
		req.Header.Set("Authorization", "Bearer "+w.flagd.Read)
		req.Header.Set("Accept-Encoding", "gzip")
		if etag != "" {
			req.Header.Set("If-None-Match", etag)
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, 0, err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != want {
			return 0, 0, fmt.Errorf("poll: %s %w", resp.Status, err)
		}
		if etag = resp.Header.Get("ETag"); want == http.StatusOK {
			full = conn.took()
		}
	}
	return full, conn.took(), nil
}

// streamSizes measures a stream's beginning with everything, one change and one heartbeat.
func streamSizes(ctx context.Context, w *world) (begin, change, beat float64, err error) {
	conn, err := dialMeter(w.flagd.Plain)
	if err != nil {
		return 0, 0, 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, 0, 0, err
	}
	if _, err := fmt.Fprintf(conn, "GET /v1/stream?client=bench HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", w.flagd.Plain, w.flagd.Read); err != nil {
		return 0, 0, 0, err
	}
	in := bufio.NewReaderSize(conn, 1<<20)
	if err := through(in, "event: reset"); err != nil {
		return 0, 0, 0, err
	}
	begin = conn.took()
	if _, err := w.operator.TurnFlag(ctx, connect.NewRequest(&pb.TurnFlagRequest{Key: dialFlag, Dial: 2600, Reason: "bench"})); err != nil {
		return 0, 0, 0, err
	}
	if err := through(in, "event: delta"); err != nil {
		return 0, 0, 0, err
	}
	change = conn.took()
	if err := through(in, ": hb"); err != nil {
		return 0, 0, 0, err
	}
	return begin, change, conn.took(), nil
}

// through reads to the end of the event, or comment, that begins with a line, and of its chunk.
func through(in *bufio.Reader, begin string) error {
	for found := false; ; {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("waiting for %q: %w", begin, err)
		}
		found = found || bytes.HasPrefix(line, []byte(begin))
		if found && len(bytes.TrimSpace(line)) == 0 {
			_, err := in.ReadSlice('\n') // the end of the chunk
			return err
		}
	}
}
