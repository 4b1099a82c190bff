package flagd

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/identity"
)

// The paths of OFREP.
const (
	ofrepBulkPath   = "/ofrep/v1/evaluate/flags"
	ofrepFlagPrefix = ofrepBulkPath + "/"
	ofrepEventPath  = "/ofrep/v1/events"
)

// idleClose is what clients are told in seconds: how long to keep an idle stream open.
const idleClose = 120

// ofrepFlag evaluates one flag. It is the busiest route of all, so it goes past the router and does nothing twice.
func (s *Server) ofrepFlag(w http.ResponseWriter, r *http.Request, key string) {
	allowOrigin(w, r)
	who, err := s.readers.admit(r)
	if err != nil {
		status := identity.HTTPStatus(err)
		ofrepFail(w, status, key, string(feature.General), s.say(status, err))
		return
	}
	buf := buffers.Get().(*[]byte)
	defer keepBuffer(buf)
	ctx, ok := s.ofrepContext(w, r, key, buf)
	if !ok {
		return
	}
	st := s.view.load()
	if st.rev == 0 {
		ofrepFail(w, http.StatusServiceUnavailable, key, string(feature.General), notReady)
		return
	}
	s.begin(w.Header(), st)
	res := st.set.Evaluate(key, &ctx, time.Now())
	s.usage.count(who, &res)
	out := (*buf)[:0]
	if res.Code == "" {
		out = st.appendSuccess(out, &res)
	} else {
		out = st.appendFailure(out, &res)
	}
	writeJSON(w, statusOf(&res), out)
	*buf = out
}

// notReady is what clients are told by a server that has no flags yet.
const notReady = "this server has read no flags yet: the store cannot be reached and there is no disk copy"

// ofrepContext reads the context of a request, or answers what is wrong with it.
func (s *Server) ofrepContext(w http.ResponseWriter, r *http.Request, key string, buf *[]byte) (feature.Context, bool) {
	body, err := readBody(r, (*buf)[:0])
	*buf = body
	var ctx feature.Context
	if err == nil {
		ctx, err = parseRequest(body)
	}
	switch {
	case err == nil:
		return ctx, true
	case errors.Is(err, errTooLarge):
		ofrepFail(w, http.StatusRequestEntityTooLarge, key, string(feature.General), err.Error())
	case errors.Is(err, errContext):
		ofrepFail(w, http.StatusBadRequest, key, string(feature.InvalidContext), err.Error())
	default:
		ofrepFail(w, http.StatusBadRequest, key, string(feature.ParseError), err.Error())
	}
	return ctx, false
}

// ofrepBulk evaluates all flags.
func (s *Server) ofrepBulk(w http.ResponseWriter, r *http.Request, who string) {
	buf := buffers.Get().(*[]byte)
	defer keepBuffer(buf)
	ctx, ok := s.ofrepContext(w, r, "", buf)
	if !ok {
		return
	}
	st := s.view.reach(r.Context(), wantedRevision(r.URL.RawQuery), s.cfg.pace.catchUp)
	if st.rev == 0 {
		ofrepFail(w, http.StatusServiceUnavailable, "", string(feature.General), notReady)
		return
	}
	now := time.Now()
	s.begin(w.Header(), st)
	etag := st.contextETag(&ctx, now)
	w.Header()["Etag"] = []string{etag}
	if matches(r.Header["If-None-Match"], etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	out := append((*buf)[:0], `{"flags":[`...)
	first := true
	for key := range st.set.Keys() {
		if !first {
			out = append(out, ',')
		}
		first = false
		res := st.set.Evaluate(key, &ctx, now)
		s.usage.count(who, &res)
		if res.Code == "" {
			out = st.appendSuccess(out, &res)
		} else {
			out = st.appendFailure(out, &res)
		}
	}
	out = append(append(append(out, `],"metadata":{"revision":`...), st.revHeader[0]...), '}')
	if ticket := s.tickets.issue(now); ticket != "" {
		out = fmt.Appendf(out, `,"eventStreams":[{"type":"sse","endpoint":{"requestUri":"%s?ticket=%s"},"inactivityDelaySec":%d}]`,
			ofrepEventPath, ticket, idleClose)
	}
	out = append(out, '}')
	writeJSON(w, http.StatusOK, out)
	*buf = out
}

// wantedRevision is the revision in ?flagConfigEtag=, which an event stream named; 0 when there is none.
func wantedRevision(query string) int64 {
	if query == "" {
		return 0
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return 0
	}
	etag := strings.Trim(strings.TrimPrefix(values.Get("flagConfigEtag"), "W/"), `"`)
	digits, _, _ := strings.Cut(etag, "-")
	rev, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0
	}
	return rev
}

// configETag names the configuration without any context, for events.
func (s *state) configETag(now time.Time) string {
	return fmt.Sprintf(`"%d-%x-%x"`, s.newest, s.print[:8], s.dials(now))
}

// contextETag names the answers to a context: it differs whenever one of them may.
func (s *state) contextETag(ctx *feature.Context, now time.Time) string {
	h := sha256.New()
	h.Write(s.print[:])
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], s.dials(now))
	h.Write(n[:])
	hashText(h, ctx.TargetingKey)
	hashValue(h, ctx.Attributes)
	return fmt.Sprintf(`"%d-%x"`, s.newest, h.Sum(nil)[:16])
}

func hashText(h hash.Hash, text string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(text)))
	h.Write(n[:])
	h.Write([]byte(text))
}

// hashValue hashes what JSON decodes to, in one form whatever the order of names and the spelling of numbers.
func hashValue(h hash.Hash, v any) {
	switch v := v.(type) {
	case nil:
		h.Write([]byte{'0'})
	case bool:
		h.Write([]byte(strconv.AppendBool([]byte{'b'}, v)))
	case string:
		h.Write([]byte{'s'})
		hashText(h, v)
	case float64:
		h.Write(binary.BigEndian.AppendUint64([]byte{'n'}, math.Float64bits(v)))
	case []any:
		h.Write(binary.BigEndian.AppendUint64([]byte{'a'}, uint64(len(v))))
		for _, e := range v {
			hashValue(h, e)
		}
	case map[string]any:
		h.Write(binary.BigEndian.AppendUint64([]byte{'o'}, uint64(len(v))))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			hashText(h, name)
			hashValue(h, v[name])
		}
	}
}

// matches compares weakly with the list of an If-None-Match.
func matches(headers []string, etag string) bool {
	for _, h := range headers {
		for one := range strings.SplitSeq(h, ",") {
			if strings.TrimPrefix(strings.TrimSpace(one), "W/") == etag {
				return true
			}
		}
	}
	return false
}
