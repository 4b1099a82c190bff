package flagd

import (
	"context"
	"net/http"
	"os"
	"time"
)

// recorder is a ResponseWriter that can tell a handler to end at its first flush.
type recorder struct {
	header  http.Header
	status  int
	bytes   int
	onFlush func()
}

func newRecorder() *recorder { return &recorder{header: http.Header{}} }

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	r.bytes += len(b)
	return len(b), nil
}

func (r *recorder) Flush() {
	if r.onFlush != nil {
		r.onFlush()
	}
}

func withCancel(req *http.Request) (*http.Request, func()) {
	ctx, cancel := context.WithCancel(req.Context())
	return req.WithContext(ctx), cancel
}

// stuckWriter is a connection whose other side stops reading after some flushes: what is written then waits for the
// deadline and fails.
type stuckWriter struct {
	*recorder
	takes    int
	deadline time.Time
}

// SetReadDeadline does what [http.ResponseController] asks for.
func (w *stuckWriter) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does what [http.ResponseController] asks for.
func (w *stuckWriter) SetWriteDeadline(at time.Time) error {
	w.deadline = at
	return nil
}

func (w *stuckWriter) FlushError() error {
	if w.takes--; w.takes >= 0 {
		return nil
	}
	<-time.After(time.Until(w.deadline))
	return os.ErrDeadlineExceeded
}
