package flagd

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/murmuration/murmuration/feature"
)

// maxBody bounds every body of the read side, in bytes.
const maxBody = 1 << 20

// Header values that are set on every answer, made once. Nobody changes them.
var (
	jsonType   = []string{"application/json; charset=utf-8"}
	anyOrigin  = []string{"*"}
	exposed    = []string{"ETag, Retry-After, X-Murmur-Revision, X-Murmur-Age, Warning"}
	staleWords = []string{`110 - "Response is Stale"`}
)

var errTooLarge = errors.New("the body is larger than 1 MiB")

// buffers are for bodies read and answers written.
var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, 4096)) }}

// keepBuffer gives a buffer back, unless it has grown large.
func keepBuffer(b *[]byte) {
	if cap(*b) <= 64<<10 {
		*b = (*b)[:0]
		buffers.Put(b)
	}
}

// readBody reads a request's body into buf, at most maxBody bytes.
func readBody(r *http.Request, buf []byte) ([]byte, error) {
	if r.ContentLength > maxBody {
		return buf, errTooLarge
	}
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		if r.ContentLength >= 0 && int64(len(buf)) == r.ContentLength {
			return buf, nil
		}
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > maxBody:
			return buf, errTooLarge
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil:
			return buf, err
		}
	}
}

// begin sets the headers of an answer to a read.
func (s *Server) begin(h http.Header, st *state) {
	h["X-Murmur-Revision"] = st.revHeader
	if age := s.view.age(); age >= s.cfg.pace.stale {
		h["X-Murmur-Age"] = []string{strconv.Itoa(int(age / time.Second))}
		h["Warning"] = staleWords
	}
}

// allowOrigin lets web pages of any origin read the answer: credentials are in headers, never in cookies.
func allowOrigin(w http.ResponseWriter, r *http.Request) {
	if r.Header["Origin"] != nil {
		w.Header()["Access-Control-Allow-Origin"] = anyOrigin
		w.Header()["Access-Control-Expose-Headers"] = exposed
	}
}

// writeJSON answers with a body. A client that went away needs no answer.
func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// fail answers an error of /v1.
func fail(w http.ResponseWriter, status int, code, message string) {
	type inner struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	backOff(w, status)
	writeJSON(w, status, mustJSON(map[string]inner{"error": {code, message}}))
}

// ofrepFailure is the body of every OFREP error.
type ofrepFailure struct {
	Key          string         `json:"key,omitempty"`
	ErrorCode    string         `json:"errorCode"`
	ErrorDetails string         `json:"errorDetails"`
	Metadata     map[string]any `json:"metadata"`
}

// ofrepFail answers an error of /ofrep.
func ofrepFail(w http.ResponseWriter, status int, key, code, details string) {
	backOff(w, status)
	writeJSON(w, status, mustJSON(ofrepFailure{key, code, details, map[string]any{}}))
}

// backOff says how long to wait, differently to everyone.
func backOff(w http.ResponseWriter, status int) {
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		if w.Header().Get("Retry-After") == "" {
			w.Header().Set("Retry-After", strconv.Itoa(2+rand.IntN(9)))
		}
	}
}

// codeOf is the code that goes with a status in errors of /v1.
func codeOf(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "FORBIDDEN"
	case http.StatusTooManyRequests:
		return "RATE_LIMITED"
	case http.StatusServiceUnavailable:
		return "UNAVAILABLE"
	}
	return "INTERNAL"
}

// appendSuccess appends an OFREP success. Keys and variants need no escaping: their grammar allows nothing to escape.
func (s *state) appendSuccess(b []byte, r *feature.Resolution) []byte {
	b = append(b, `{"key":"`...)
	b = append(b, r.Key...)
	b = append(b, `","reason":"`...)
	b = append(b, r.Reason...)
	b = append(b, `","variant":"`...)
	b = append(b, r.Variant...)
	b = append(b, `","value":`...)
	b = s.appendValue(b, r)
	b = append(b, `,"metadata":`...)
	b = s.appendMetadata(b, r)
	return append(b, '}')
}

func (s *state) appendMetadata(b []byte, r *feature.Resolution) []byte {
	b = append(b, `{"version":`...)
	b = strconv.AppendUint(b, r.Version, 10)
	b = append(b, `,"revision":`...)
	b = append(b, s.revHeader[0]...)
	b = append(b, `,"killed":`...)
	b = strconv.AppendBool(b, r.Killed)
	return append(b, '}')
}

// appendValue appends a value as it was written. But SDKs that check types look at a number's form, so a number of a
// flag that has fractions has one too.
func (s *state) appendValue(b []byte, r *feature.Resolution) []byte {
	if r.Type != feature.Number || !s.floats[r.Key] {
		return append(b, r.Value.Raw...)
	}
	return appendFloat(b, r.Value)
}

func appendFloat(b []byte, v *feature.Value) []byte {
	if bytes.IndexByte(v.Raw, '.') >= 0 || math.Abs(v.Number) >= 1e21 {
		return append(b, v.Raw...)
	}
	start := len(b)
	b = strconv.AppendFloat(b, v.Number, 'f', -1, 64)
	if bytes.IndexByte(b[start:], '.') < 0 {
		b = append(b, ".0"...)
	}
	return b
}

// hasFractions reports whether a number flag's values are not all integers.
func hasFractions(f feature.Flag) bool {
	if f.Type != feature.Number {
		return false
	}
	for _, v := range f.Variants {
		if _, err := strconv.ParseInt(string(bytes.TrimSpace(v.Value)), 10, 64); err != nil {
			return true
		}
	}
	return false
}

// appendFailure appends an OFREP failure, as it is or inside a bulk answer.
func (s *state) appendFailure(b []byte, r *feature.Resolution) []byte {
	body, err := json.Marshal(ofrepFailure{
		Key: r.Key, ErrorCode: string(r.Code), ErrorDetails: r.Detail,
		Metadata: map[string]any{"version": r.Version, "revision": s.rev},
	})
	if err != nil {
		return b // text and numbers can always be encoded
	}
	return append(b, body...)
}

// statusOf is the status for an evaluation.
func statusOf(r *feature.Resolution) int {
	switch r.Code {
	case "":
		return http.StatusOK
	case feature.FlagNotFound:
		return http.StatusNotFound
	}
	return http.StatusBadRequest
}
