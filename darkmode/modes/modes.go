// Package modes puts an HTTP service in the mode that a flag says: normal, read-only or static.
//
//		mode := flags.ModeFlag("shop.mode")
//		handler = modes.New(modes.Config{Mode: func(*http.Request) string { return mode.Get("") }}).Wrap(handler)
//
//	  - normal serves as ever, and remembers good public answers for later.
//	  - read-only refuses the methods that change things (all but GET, HEAD, OPTIONS and TRACE) with 503 and Retry-After.
//	  - static serves the last good answer of the same request from memory, without asking the handler, and 503 with
//	    Retry-After where there is none. It takes the load off whatever stands behind.
//
// The mode is asked once per request, so it holds from the request's first byte to its last. A mode that is none of
// the three counts as normal: a typo must not take a service down. Some paths (health checks, logins) can be exempt.
//
// # What is remembered
//
// Only answers that any caller may see: 200 to a GET without Authorization, API key, client certificate, Cookie (but
// see [Config.Public]) or Range in the request, without Set-Cookie, and not marked private or no-store. An answer that
// varies is kept under the values of the headers that it names in Vary; "Vary: *" is not kept. In static mode whoever asks
// is shown them, cookies or not. An answer marked with max-age is served past it all the same: old is better than
// nothing then, and Age and Warning say so. Memory is bounded, the least recently used go first.
//
// # Concurrency
//
// A Middleware is safe for concurrent use. Remembering an answer copies it as it is written; the caller sees it
// unbuffered, flushes and all. An answer too large to keep is passed on and forgotten, as is one that was cut off.
package modes

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/murmuration/murmuration/feature"
)

// Config says how a service obeys its mode. All but Mode have useful zero values.
type Config struct {
	// Mode is asked once per request; it must be fast and safe for concurrent use. A handle made by
	// darkmode.Client.ModeFlag fits. nil means always normal.
	Mode func(*http.Request) string
	// Exempt says which requests are served in any mode as in normal, such as health checks. nil exempts none.
	Exempt func(*http.Request) bool
	// Safe says which requests change nothing although their method says otherwise, such as a search by POST. It
	// adds to the safe methods of RFC 9110. nil adds none.
	Safe func(*http.Request) bool
	// Public says which requests get the same answer whoever asks, although they carry cookies or a certificate; such
	// answers are remembered too. nil says none.
	Public func(*http.Request) bool
	// RetryAfter is what refused callers are told to wait. Default 30 s; whole seconds, at least 1.
	RetryAfter time.Duration
	// MaxBytes bounds all that is remembered, MaxAnswer one answer. Defaults 32 MiB and 1 MiB; a negative MaxBytes
	// remembers nothing.
	MaxBytes, MaxAnswer int
}

// Middleware obeys a mode. Make it with [New].
type Middleware struct {
	cfg   Config
	cache *cache
}

// New returns a middleware. Several handlers may share it: answers are kept by host and URL.
func New(cfg Config) *Middleware {
	if cfg.Mode == nil {
		cfg.Mode = func(*http.Request) string { return feature.ModeNormal }
	}
	if cfg.RetryAfter == 0 {
		cfg.RetryAfter = 30 * time.Second
	}
	cfg.RetryAfter = max(cfg.RetryAfter, time.Second)
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 32 << 20
	}
	if cfg.MaxAnswer <= 0 {
		cfg.MaxAnswer = 1 << 20
	}
	return &Middleware{cfg: cfg, cache: newCache(cfg.MaxBytes)}
}

// Wrap returns a handler that serves next as the mode allows.
func (m *Middleware) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.cfg.Exempt != nil && m.cfg.Exempt(r) {
			next.ServeHTTP(w, r)
			return
		}
		switch mode := m.cfg.Mode(r); {
		case mode == feature.ModeStatic:
			m.serveStatic(w, r)
		case mode == feature.ModeReadOnly && !m.safe(r):
			m.refuse(w, r, "read-only", "The service is read-only for now: nothing was changed.")
		default:
			m.remember(w, r, next)
		}
	})
}

// safe reports whether a request changes nothing (RFC 9110, section 9.2.1).
func (m *Middleware) safe(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return m.cfg.Safe != nil && m.cfg.Safe(r)
}

// remember serves and keeps what may be kept.
func (m *Middleware) remember(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if m.cfg.MaxBytes < 0 || !m.storableRequest(r) {
		next.ServeHTTP(w, r)
		return
	}
	rec := &recorder{ResponseWriter: w, limit: m.cfg.MaxAnswer}
	next.ServeHTTP(rec, r) // a panic goes past what follows: nothing is kept
	if a := rec.answer(time.Now()); a != nil && r.Context().Err() == nil {
		m.cache.put(r, a)
	}
}

// serveStatic answers from memory. Only GET and HEAD can be.
func (m *Middleware) serveStatic(w http.ResponseWriter, r *http.Request) {
	var a *answer
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		a = m.cache.get(r)
	}
	if a == nil {
		m.refuse(w, r, "static", "The service shows only stored pages for now, and has none for this request.")
		return
	}
	h := w.Header()
	maps.Copy(h, a.header)
	h.Set("Age", strconv.Itoa(int(max(0, time.Since(a.at))/time.Second)))
	h.Set("Warning", `110 - "Response is Stale"`)
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body) // the caller may be gone
	}
}

// refuse answers 503, in JSON for those who ask for it.
func (m *Middleware) refuse(w http.ResponseWriter, r *http.Request, mode, text string) {
	seconds := int((m.cfg.RetryAfter + time.Second - 1) / time.Second)
	h := w.Header()
	h.Set("Retry-After", strconv.Itoa(seconds))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	body := []byte(text + "\n")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if wantsJSON(r) {
		h.Set("Content-Type", "application/json")
		body, _ = json.Marshal(map[string]any{"error": map[string]any{"code": "UNAVAILABLE", "mode": mode, "message": text, "retry_after": seconds}})
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the caller may be gone
	}
}

// wantsJSON reports whether a caller speaks JSON: it says so, or it sends it.
func wantsJSON(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "json") || strings.Contains(r.Header.Get("Content-Type"), "json")
}
