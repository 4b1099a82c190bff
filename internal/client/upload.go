package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

// UploadOffset is the header that says at which byte of the artifact a PUT goes on.
const UploadOffset = "Upload-Offset"

// How an upload that breaks is tried again.
const (
	uploadTries   = 6 // in a row without a single byte more on the server
	uploadBackoff = 250 * time.Millisecond
	uploadMaxWait = 8 * time.Second
	uploadStall   = time.Minute     // without a byte taken from us
	uploadFinish  = 5 * time.Minute // for the answer after the last byte
)

// The ends of an upload that makes no progress: within one try, and over all of them.
var (
	errStalled    = errors.New("the upload stalled")
	errNoProgress = errors.New("the server got nothing new in several tries")
)

// Progress is told how many bytes of total the server has. It is called from one goroutine at a time.
type Progress func(done, total int64)

// UploadArtifact sends the file at path to the control plane as the artifact named by its digest ("sha256:" and 64 hex
// digits). It goes on where an earlier upload ended, tries again with growing waits while the network fails, and
// returns at once when the server has the artifact already. Progress may be nil.
func (c *Client) UploadArtifact(ctx context.Context, digest, path string, progress Progress) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("upload the artifact: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("upload the artifact: %w", err)
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	u := upload{client: c, file: f, digest: digest, size: info.Size(), progress: progress, at: -1}
	if err := u.run(ctx); err != nil {
		return fmt.Errorf("upload the artifact %.19s… (%d of %d bytes sent): %w", digest, max(u.at, 0), u.size, err)
	}
	return nil
}

// upload is one artifact on its way.
type upload struct {
	client   *Client
	file     *os.File
	digest   string
	size     int64
	progress Progress
	at       int64 // what the server has; -1 before it was asked
}

func (u *upload) run(ctx context.Context) error {
	for try := 0; ; {
		before := u.at
		done, err := u.attempt(ctx)
		switch {
		case done:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && !transient(err):
			return err
		case u.at > before:
			try = 0
		default:
			try++
		}
		if try >= uploadTries {
			return gaveUp(err)
		}
		if err == nil && try == 0 {
			continue
		}
		wait := min(uploadBackoff<<try, uploadMaxWait)
		if err := sleep(ctx, wait/2+rand.N(wait/2)); err != nil {
			return err
		}
	}
}

// gaveUp is the error after too many tries, the last of which ended with err, which may be nil.
func gaveUp(err error) error {
	if err == nil {
		return errNoProgress
	}
	return fmt.Errorf("%w: %w", errNoProgress, err)
}

// attempt asks where to go on and sends the rest. Done means that the server has everything.
func (u *upload) attempt(ctx context.Context) (done bool, err error) {
	resp, err := u.client.Releases.BeginUpload(ctx, connect.NewRequest(&murmurv1.BeginUploadRequest{Digest: u.digest, Size: u.size}))
	if err != nil {
		return false, err
	}
	if resp.Msg.Complete {
		u.progress(u.size, u.size)
		return true, nil
	}
	offset := resp.Msg.Offset
	if offset < 0 || offset > u.size {
		return true, fmt.Errorf("the server asks for byte %d of a file of %d", offset, u.size)
	}
	u.at = offset
	u.progress(offset, u.size)
	// When the answer says all is well, the next BeginUpload is what proves it.
	return false, u.put(ctx, offset)
}

// put sends the bytes from offset on.
func (u *upload) put(ctx context.Context, offset int64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(uploadStall, func() { cancel(errStalled) })
	defer watchdog.Stop()
	body := &meter{r: io.NewSectionReader(u.file, offset, u.size-offset)}
	body.moved = func(n int64) {
		u.progress(offset+n, u.size)
		watchdog.Reset(uploadStall)
	}
	body.over = func() { watchdog.Reset(uploadFinish) }
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, u.client.URL()+"/v1/artifacts/"+u.digest, body)
	if err != nil {
		return err
	}
	req.ContentLength = u.size - offset
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set(UploadOffset, strconv.FormatInt(offset, 10))
	resp, err := u.client.http.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
			return cause
		}
		return err
	}
	defer drain(resp.Body)
	return statusError(resp)
}

// meter counts what is read through it. Only the transport reads it; the transport may close it at any time.
type meter struct {
	r      io.Reader
	n      int64
	closed atomic.Bool
	moved  func(n int64)
	over   func()
}

// Read counts and reports.
func (m *meter) Read(p []byte) (int, error) {
	if m.closed.Load() {
		return 0, io.ErrClosedPipe
	}
	n, err := m.r.Read(p)
	if n > 0 {
		m.n += int64(n)
		m.moved(m.n)
	}
	if err != nil {
		m.over()
	}
	return n, err
}

// Close stops the reports. The file stays open: it is not the meter's.
func (m *meter) Close() error {
	m.closed.Store(true)
	return nil
}

// StatusError is an answer of a plain HTTP route that is no success.
type StatusError struct {
	Status int
	// Text is the server's explanation, at most 4 KiB.
	Text string
}

// Error is the server's explanation and the status.
func (e *StatusError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("%s (status %d)", e.Text, e.Status)
}

func statusError(resp *http.Response) error {
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	return &StatusError{Status: resp.StatusCode, Text: strings.TrimSpace(strings.ToValidUTF8(string(text), ""))}
}

// transient reports whether trying again may help.
func transient(err error) bool {
	if e, ok := errors.AsType[*StatusError](err); ok {
		switch e.Status {
		case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
			return true
		}
		return e.Status >= 500 && e.Status != http.StatusInsufficientStorage && e.Status != http.StatusNotImplemented
	}
	if certificateProblem(err) != "" {
		return false
	}
	if e, ok := errors.AsType[*connect.Error](err); ok {
		switch e.Code() {
		case connect.CodeUnavailable, connect.CodeAborted, connect.CodeDeadlineExceeded, connect.CodeResourceExhausted, connect.CodeUnknown:
			return true
		}
		return false
	}
	return true
}
