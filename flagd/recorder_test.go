package flagd

import (
	"context"
	"net/http"
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
