package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// flock is many clients of the event stream that do nothing but read it, each over a TLS connection of its own. They
// come back as the protocol asks: after retry:, after Retry-After, jittered.
type flock struct {
	address, token string
	tls            *tls.Config
	hit            func(i int, at time.Time) // a kill was read by client i

	connected, refused atomic.Int64
	entrance           chan struct{} // bounds how many connect at the same moment
	wg                 sync.WaitGroup
	cancel             context.CancelFunc
}

// gather starts n clients and waits until all listen.
func gather(ctx context.Context, w *world, n int, hit func(int, time.Time)) (*flock, error) {
	ctx, cancel := context.WithCancel(ctx)
	f := &flock{address: w.flagd.TLS, token: w.flagd.Read, tls: w.tls.Clone(), hit: hit, entrance: make(chan struct{}, 256), cancel: cancel}
	f.tls.NextProtos = []string{"http/1.1"}
	for i := range n {
		f.wg.Go(func() { f.live(ctx, i) })
	}
	if err := f.await(ctx, n, 3*time.Minute); err != nil {
		f.scatter()
		return nil, err
	}
	return f, nil
}

// await waits until n clients listen.
func (f *flock) await(ctx context.Context, n int, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for f.connected.Load() < int64(n) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d clients are connected after %v", f.connected.Load(), n, limit)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// scatter ends all clients.
func (f *flock) scatter() {
	f.cancel()
	f.wg.Wait()
}

// live is one client.
func (f *flock) live(ctx context.Context, i int) {
	for failures := 0; ctx.Err() == nil; {
		retry, heard, err := f.listen(ctx, i)
		wait := retry
		if heard {
			failures = 0
		} else {
			wait = max(wait, time.Second<<min(failures, 5))
			failures++
		}
		if after := (*busyError)(nil); errors.As(err, &after) {
			f.refused.Add(1)
			wait = 2 * after.wait
		}
		_ = pause(ctx, wait/2+rand.N(wait/2+1)) // it fails only when this ends anyway
	}
}

// busyError is a refusal with how long to stay away.
type busyError struct{ wait time.Duration }

func (e *busyError) Error() string { return "asked to wait " + e.wait.String() }

// listen reads one stream to its end. It returns the server's retry: and whether the stream began.
func (f *flock) listen(ctx context.Context, i int) (retry time.Duration, heard bool, err error) {
	conn, in, err := f.enter(ctx)
	if err != nil {
		return 0, false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer func() {
		if heard {
			f.connected.Add(-1)
		}
	}()
	for {
		line, err := shortLine(in)
		if err != nil {
			return retry, heard, err
		}
		switch {
		case bytes.HasPrefix(line, []byte("retry: ")):
			ms, _ := strconv.Atoi(string(bytes.TrimSpace(line[7:])))
			retry = time.Duration(ms) * time.Millisecond
		case !heard && bytes.HasPrefix(line, []byte("event: reset")):
			heard = true
			f.connected.Add(1)
		case bytes.HasPrefix(line, []byte("data: ")) && bytes.Contains(line, []byte(`"ack":true`)):
			f.hit(i, time.Now())
		}
	}
}

// enter opens a connection and its stream, up to the end of the answer's head.
func (f *flock) enter(ctx context.Context) (net.Conn, *bufio.Reader, error) {
	select {
	case f.entrance <- struct{}{}:
		defer func() { <-f.entrance }()
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 30 * time.Second}, Config: f.tls}
	conn, err := dialer.DialContext(ctx, "tcp", f.address)
	if err != nil {
		return nil, nil, err
	}
	_, err = fmt.Fprintf(conn, "GET /v1/stream?client=bench HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", f.address, f.token)
	in := bufio.NewReaderSize(conn, 2048)
	if err == nil {
		err = streamHead(in)
	}
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, in, nil
}

// streamHead reads the head of a stream's answer.
func streamHead(in *bufio.Reader) error {
	status, err := shortLine(in)
	if err != nil {
		return err
	}
	text, wait := string(bytes.TrimSpace(status)), 0
	for {
		line, err := shortLine(in)
		if err != nil {
			return err
		}
		name, value, ok := strings.Cut(string(bytes.TrimSpace(line)), ":")
		if !ok {
			break
		}
		if strings.EqualFold(name, "Retry-After") {
			wait, _ = strconv.Atoi(strings.TrimSpace(value))
		}
	}
	switch {
	case strings.HasPrefix(text, "HTTP/1.1 200"):
		return nil
	case wait > 0:
		return &busyError{time.Duration(wait) * time.Second}
	}
	return errors.New(text)
}

// shortLine reads a line; of one that is longer than the buffer it returns nothing.
func shortLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = in.ReadSlice('\n')
	}
	return nil, err
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
