// Package gin lets a gin service obey a darkmode mode: it runs a [modes.Middleware] as a gin handler.
//
//	m := modes.New(modes.Config{Mode: func(*http.Request) string { return mode.Get("") }})
//	engine.Use(gin.Recovery(), darkmodegin.Handler(m))
//
// Everything in package modes holds here. Handlers before it in the chain run in every mode, so authentication may come
// first; handlers after it run only when the mode lets the request through. To wrap a whole engine instead,
// m.Wrap(engine) does, without this package.
package gin

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/murmuration/murmuration/darkmode/modes"
)

// Handler returns a gin handler that serves the rest of the chain as the mode allows.
func Handler(m *modes.Middleware) gin.HandlerFunc {
	return func(c *gin.Context) {
		outer, passed := c.Writer, false
		rest := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			passed = true
			inner := &writer{ResponseWriter: outer, next: w}
			c.Writer, c.Request = inner, r
			defer func() { c.Writer = outer }()
			c.Next()
			inner.begin() // a chain that wrote no body has its status noted too
		})
		m.Wrap(rest).ServeHTTP(outer, c.Request)
		if !passed {
			c.Abort()
		}
	}
}

// writer sends what the chain writes through the middleware's own writer. gin keeps a status until the first byte and
// may set headers until then, so the middleware learns of both only there.
type writer struct {
	gin.ResponseWriter
	next  http.ResponseWriter
	begun bool
}

func (w *writer) begin() {
	if !w.begun {
		w.begun = true
		w.next.WriteHeader(w.Status())
	}
}

// Write writes a part of the body.
func (w *writer) Write(p []byte) (int, error) {
	w.begin()
	return w.next.Write(p)
}

// WriteString writes a part of the body.
func (w *writer) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// WriteHeaderNow sends the status and the headers.
func (w *writer) WriteHeaderNow() {
	w.begin()
	w.ResponseWriter.WriteHeaderNow()
}

// Flush sends what was written.
func (w *writer) Flush() {
	w.begin()
	w.ResponseWriter.Flush()
}

// Unwrap lets http.ResponseController reach the writer below.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
