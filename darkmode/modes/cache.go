package modes

import (
	"container/list"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// answer is one that may be shown to anybody: immutable.
type answer struct {
	header http.Header
	body   []byte
	at     time.Time
}

// perAnswer is what an answer costs beside its parts, roughly.
const perAnswer = 512

func (a *answer) size() int {
	n := perAnswer + len(a.body)
	for name, values := range a.header {
		n += len(name)
		for _, v := range values {
			n += len(v)
		}
	}
	return n
}

// cache keeps answers up to a number of bytes; the least recently used go first.
type cache struct {
	limit int

	mu    sync.Mutex
	bytes int
	order *list.List // of *entry, the most recent first
	byKey map[string]*list.Element
	vary  map[string]*variation // by the plain key
}

// entry is an answer in the order of use.
type entry struct {
	key, plain string
	size       int
	answer     *answer
}

// variation is which headers a resource's answers vary by, and how many are kept of it.
type variation struct {
	names []string
	kept  int
}

func newCache(limit int) *cache {
	return &cache{limit: limit, order: list.New(), byKey: map[string]*list.Element{}, vary: map[string]*variation{}}
}

// plainKey names a resource. The host belongs to it: one process may serve several.
func plainKey(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "\x00" + strings.ToLower(r.Host) + "\x00" + r.URL.RequestURI()
}

// fullKey adds the values of the headers that answers vary by.
func fullKey(plain string, names []string, h http.Header) string {
	var b strings.Builder
	b.WriteString(plain)
	for _, name := range names {
		b.WriteString("\x00" + name + "\x01" + strings.Join(h[name], "\x01"))
	}
	return b.String()
}

func (c *cache) get(r *http.Request) *answer {
	plain := plainKey(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.vary[plain]
	if v == nil {
		return nil
	}
	el := c.byKey[fullKey(plain, v.names, r.Header)]
	if el == nil {
		return nil
	}
	c.order.MoveToFront(el)
	return el.Value.(*entry).answer
}

func (c *cache) put(r *http.Request, a *answer) {
	plain, names := plainKey(r), varyNames(a.header)
	key := fullKey(plain, names, r.Header)
	e := &entry{key: key, plain: plain, size: a.size() + 2*len(key), answer: a}
	if e.size > c.limit {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.vary[plain]; v != nil && !slices.Equal(v.names, names) {
		c.forget(plain) // answers filed under other headers could be shown to the wrong caller
	}
	if old := c.byKey[key]; old != nil {
		c.remove(old)
	}
	for c.bytes+e.size > c.limit {
		c.remove(c.order.Back())
	}
	v := c.vary[plain]
	if v == nil {
		v = &variation{names: names}
		c.vary[plain] = v
	}
	v.kept++
	c.bytes += e.size
	c.byKey[key] = c.order.PushFront(e)
}

// forget removes all answers of one resource.
func (c *cache) forget(plain string) {
	for el := c.order.Front(); el != nil; {
		next := el.Next()
		if el.Value.(*entry).plain == plain {
			c.remove(el)
		}
		el = next
	}
}

func (c *cache) remove(el *list.Element) {
	e := c.order.Remove(el).(*entry)
	delete(c.byKey, e.key)
	c.bytes -= e.size
	if v := c.vary[e.plain]; v != nil {
		if v.kept--; v.kept == 0 {
			delete(c.vary, e.plain)
		}
	}
}

// varyNames lists the headers an answer varies by, in order.
func varyNames(h http.Header) []string {
	var names []string
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" {
				names = append(names, textproto.CanonicalMIMEHeaderKey(name))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// maxURL bounds the request targets that are remembered.
const maxURL = 4 << 10

// storableRequest reports whether a good answer to a request may be kept: a GET that does not say who asks, or one
// that the program knows to be public whoever asks.
func (m *Middleware) storableRequest(r *http.Request) bool {
	h := r.Header
	if r.Method != http.MethodGet || h.Get("Range") != "" || h.Get("Upgrade") != "" || len(r.URL.RequestURI()) > maxURL {
		return false
	}
	if h.Get("Authorization") != "" || h.Get("X-Api-Key") != "" {
		return false
	}
	named := h.Get("Cookie") != "" || r.TLS != nil && len(r.TLS.PeerCertificates) > 0
	return !named || m.cfg.Public != nil && m.cfg.Public(r)
}

// storable reports whether an answer may be shown to anybody.
func storable(status int, h http.Header) bool {
	if status != http.StatusOK || len(h["Set-Cookie"]) > 0 || slices.Contains(varyNames(h), "*") || h.Get("Www-Authenticate") != "" {
		return false
	}
	for _, line := range h["Cache-Control"] {
		for part := range strings.SplitSeq(strings.ToLower(line), ",") {
			name, _, _ := strings.Cut(strings.TrimSpace(part), "=")
			if name == "private" || name == "no-store" {
				return false
			}
		}
	}
	return !strings.HasPrefix(h.Get("Content-Type"), "text/event-stream")
}

// recorder passes an answer on and copies it while it may still be kept.
type recorder struct {
	http.ResponseWriter
	limit  int
	status int
	header http.Header
	body   []byte
	failed bool // too large, not for keeping, or the caller went away
}

// Unwrap lets http.ResponseController reach the writer below, to flush and to set deadlines.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader passes the status on and notes the headers as they are now.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
		if r.failed = r.failed || !storable(status, r.Header()); !r.failed {
			r.header = r.Header().Clone()
		}
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write passes a part of the body on.
func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	n, err := r.ResponseWriter.Write(p)
	switch {
	case r.failed:
	case err != nil || len(r.body)+n > r.limit:
		r.failed, r.body = true, nil
	default:
		r.body = append(r.body, p[:n]...)
	}
	return n, err
}

// Flush passes on what was written; handlers that ask for an http.Flusher find one.
func (r *recorder) Flush() {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	_ = http.NewResponseController(r.ResponseWriter).Flush() // a writer that cannot flush has nothing to lose
}

// answer is what was served, or nil when it may not be kept or is not whole.
func (r *recorder) answer(now time.Time) *answer {
	if r.status == 0 { // the handler wrote nothing: an empty 200
		if !storable(http.StatusOK, r.Header()) {
			return nil
		}
		r.header, r.status = r.Header().Clone(), http.StatusOK
	}
	if r.failed {
		return nil
	}
	if length := r.header.Get("Content-Length"); length != "" && length != strconv.Itoa(len(r.body)) {
		return nil
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Trailer", "Upgrade", "Date", "Age"} {
		r.header.Del(name)
	}
	if r.header.Get("Content-Type") == "" && len(r.body) > 0 {
		r.header.Set("Content-Type", http.DetectContentType(r.body)) // as net/http did when it was first served
	}
	return &answer{header: r.header, body: slices.Clip(r.body), at: now}
}
