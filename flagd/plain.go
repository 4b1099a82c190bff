package flagd

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/murmuration/murmuration/feature"
)

// Bounds of a plain query.
const (
	maxQuery      = 16 << 10
	maxQueryAttrs = 128
)

// plainFlag is GET /v1/flags/{key}.
func (s *Server) plainFlag(w http.ResponseWriter, r *http.Request, who string) {
	ctx, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		fail(w, http.StatusBadRequest, string(feature.ParseError), err.Error())
		return
	}
	st := s.view.load()
	if st.rev == 0 {
		fail(w, http.StatusServiceUnavailable, "UNAVAILABLE", notReady)
		return
	}
	s.begin(w.Header(), st)
	w.Header().Set("Cache-Control", "no-store")
	res := st.set.Evaluate(r.PathValue("key"), &ctx, time.Now())
	s.usage.count(who, &res)
	if res.Code != "" {
		fail(w, statusOf(&res), string(res.Code), res.Detail)
		return
	}
	out := fmt.Appendf(nil, `{"key":%q,"variant":%q,"value":`, res.Key, res.Variant)
	out = st.appendValue(out, &res)
	out = fmt.Appendf(out, `,"reason":%q,"version":%d,"revision":%d}`+"\n", res.Reason, res.Version, st.rev)
	writeJSON(w, http.StatusOK, out)
}

// parseQuery reads unit=U and attr.NAME[:number|:boolean]=VALUE.
func parseQuery(raw string) (feature.Context, error) {
	var ctx feature.Context
	if len(raw) > maxQuery {
		return ctx, fmt.Errorf("the query is longer than %d bytes", maxQuery)
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return ctx, fmt.Errorf("the query cannot be read: %w", err)
	}
	if len(values) > maxQueryAttrs {
		return ctx, fmt.Errorf("more than %d parameters", maxQueryAttrs)
	}
	for name, given := range values {
		if len(given) != 1 {
			return feature.Context{}, fmt.Errorf("parameter %.64q is given %d times", name, len(given))
		}
		if err := setParameter(&ctx, name, given[0]); err != nil {
			return feature.Context{}, err
		}
	}
	return ctx, nil
}

func setParameter(ctx *feature.Context, name, value string) error {
	if !utf8.ValidString(name) || !utf8.ValidString(value) {
		return fmt.Errorf("parameter %.64q is not UTF-8", name)
	}
	if name == "unit" {
		ctx.TargetingKey = value
		return nil
	}
	attr, ok := strings.CutPrefix(name, "attr.")
	attr, form, typed := strings.Cut(attr, ":")
	if !ok || attr == "" {
		return fmt.Errorf("parameter %.64q is unknown: use unit=VALUE and attr.NAME=VALUE", name)
	}
	var v any = value
	var err error
	switch {
	case typed && form == "number":
		v, err = strconv.ParseFloat(value, 64)
	case typed && form == "boolean":
		v, err = strconv.ParseBool(value)
	case typed:
		return fmt.Errorf("parameter %.64q: an attribute can be a :number or a :boolean", name)
	}
	if err != nil {
		return fmt.Errorf("parameter %.64q: %.64q is no %s", name, value, form)
	}
	if ctx.Attributes == nil {
		ctx.Attributes = map[string]any{}
	}
	if _, twice := ctx.Attributes[attr]; twice {
		return fmt.Errorf("attribute %.64q is given twice", attr)
	}
	ctx.Attributes[attr] = v
	return nil
}
