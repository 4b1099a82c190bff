package flagd

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

// TestBadInput holds every kind of bad request to its answer.
func TestBadInput(t *testing.T) {
	r := newWorld(t).server()
	r.put(boolFlag("half", 5000))
	r.put(boolFlag("full", 10000))
	one := ofrepFlagPrefix
	deep := `{"context":{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}}`
	tests := []struct {
		name, method, path, body string
		status                   int
		code                     string
	}{
		{"unknown flag", "POST", one + "nope", `{}`, 404, "FLAG_NOT_FOUND"},
		{"key outside the grammar", "POST", one + "no%20pe", `{}`, 404, "FLAG_NOT_FOUND"},
		{"key with a slash", "POST", one + "a/../half", `{}`, 404, "FLAG_NOT_FOUND"},
		{"no targeting key where it splits", "POST", one + "half", `{"context":{}}`, 400, "TARGETING_KEY_MISSING"},
		{"no targeting key where it need not", "POST", one + "full", `{"context":{}}`, 200, ""},
		{"null context", "POST", one + "full", `{"context":null}`, 200, ""},
		{"no context", "POST", one + "full", `{}`, 200, ""},
		{"no body", "POST", one + "full", ``, 200, ""},
		{"targeting key of the wrong type", "POST", one + "full", `{"context":{"targetingKey":7}}`, 400, "INVALID_CONTEXT"},
		{"context of the wrong type", "POST", one + "full", `{"context":[1]}`, 400, "INVALID_CONTEXT"},
		{"body of the wrong type", "POST", one + "full", `[]`, 400, "INVALID_CONTEXT"},
		{"not JSON", "POST", one + "full", `{"context":`, 400, "PARSE_ERROR"},
		{"something after the JSON", "POST", one + "full", `{} {}`, 400, "PARSE_ERROR"},
		{"deep JSON", "POST", one + "full", deep, 400, "PARSE_ERROR"},
		{"not UTF-8", "POST", one + "full", "{\"context\":{\"targetingKey\":\"\xff\"}}", 400, "PARSE_ERROR"},
		{"10 MB", "POST", one + "full", `{"context":{"a":"` + strings.Repeat("x", 10<<20) + `"}}`, 413, "GENERAL"},
		{"bulk: not JSON", "POST", ofrepBulkPath, `nope`, 400, "PARSE_ERROR"},
		{"bulk: wrong context", "POST", ofrepBulkPath, `{"context":"me"}`, 400, "INVALID_CONTEXT"},
		{"no such OFREP path", "GET", "/ofrep/v1/configuration", ``, 404, "GENERAL"},
		{"event stream without ticket", "GET", ofrepEventPath, ``, 401, "GENERAL"},
		{"event stream with a bad ticket", "GET", ofrepEventPath + "?ticket=AAAA", ``, 401, "GENERAL"},
		{"plain: unknown flag", "GET", "/v1/flags/nope", ``, 404, "FLAG_NOT_FOUND"},
		{"plain: no unit", "GET", "/v1/flags/half", ``, 400, "TARGETING_KEY_MISSING"},
		{"plain: unknown parameter", "GET", "/v1/flags/half?user=1", ``, 400, "PARSE_ERROR"},
		{"plain: twice", "GET", "/v1/flags/half?unit=1&unit=2", ``, 400, "PARSE_ERROR"},
		{"plain: no number", "GET", "/v1/flags/half?unit=1&attr.age:number=old", ``, 400, "PARSE_ERROR"},
		{"stream: bad revision", "GET", "/v1/stream?since=-1", ``, 400, "PARSE_ERROR"},
		{"stream: long client", "GET", "/v1/stream?client=" + strings.Repeat("c", 200), ``, 400, "PARSE_ERROR"},
		{"usage: not JSON", "POST", "/v1/usage", `{`, 400, "PARSE_ERROR"},
		{"ack: no such stream", "POST", "/v1/streams/nope/ack", `{"revision":1}`, 404, "NOT_FOUND"},
		{"no such path", "GET", "/v1/nope", ``, 404, "NOT_FOUND"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := r.do(tt.method, tt.path, tt.body)
			if a.status != tt.status {
				t.Fatalf("status %d, want %d: %.300s", a.status, tt.status, a.body)
			}
			if a.status == http.StatusOK {
				return
			}
			got := a.json(t)
			code, ofrep := got["errorCode"], strings.HasPrefix(tt.path, "/ofrep/")
			if e, ok := got["error"].(map[string]any); ok {
				code = e["code"]
			}
			if code != tt.code {
				t.Errorf("code %v, want %s", code, tt.code)
			}
			if _, ok := got["metadata"].(map[string]any); ok != ofrep {
				t.Errorf("metadata: %v in %s", ok, a.body)
			}
			if got["errorDetails"] == "" {
				t.Errorf("no details: %s", a.body)
			}
		})
	}
}

func TestStrangersGetNothing(t *testing.T) {
	r := newWorld(t).server()
	r.put(boolFlag("full", 10000))
	for _, path := range []string{"/v1/snapshot", "/v1/flags/full", "/v1/stream", "/metrics"} {
		for _, token := range []string{"", "Bearer nope", "Basic cm9vdDpyb290"} {
			a := r.try("GET", path, nil, "Authorization", token)
			if a.status != http.StatusUnauthorized || a.json(t)["error"] == nil {
				t.Errorf("%s with %q: %d %s", path, token, a.status, a.body)
			}
		}
	}
	for _, path := range []string{ofrepBulkPath, ofrepFlagPrefix + "full"} {
		a := r.try("POST", path, strings.NewReader(`{}`), "X-API-Key", "nope")
		if got := a.json(t); a.status != http.StatusUnauthorized || got["errorCode"] != "GENERAL" || got["metadata"] == nil {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
		if a := r.try("POST", path, strings.NewReader(`{}`), "X-API-Key", r.w.token); a.status != http.StatusOK {
			t.Errorf("%s with an API key: %d %s", path, a.status, a.body)
		}
	}
	if a := r.try("GET", "/readyz", nil); a.status != http.StatusOK {
		t.Errorf("readyz: %d", a.status)
	}
}

func TestCORS(t *testing.T) {
	r := newWorld(t).server()
	r.put(boolFlag("full", 10000))
	pre := r.try("OPTIONS", ofrepBulkPath, nil, "Origin", "https://shop.example", "Access-Control-Request-Method", "POST")
	for _, name := range []string{"Content-Type", "If-None-Match", "Authorization", "X-API-Key"} {
		if !strings.Contains(pre.header.Get("Access-Control-Allow-Headers"), name) {
			t.Errorf("%s is not allowed", name)
		}
	}
	a := r.do("POST", ofrepBulkPath, `{}`, "Origin", "https://shop.example")
	if a.header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(a.header.Get("Access-Control-Expose-Headers"), "ETag") {
		t.Errorf("headers %v", a.header)
	}
	if single := r.do("POST", ofrepFlagPrefix+"full", `{}`, "Origin", "https://shop.example"); single.header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("headers %v", single.header)
	}
}

// TestValuesAsTyped: integers without a decimal point, floats with one; SDKs check.
func TestValuesAsTyped(t *testing.T) {
	r := newWorld(t).server()
	number := func(key string, values ...string) *murmurv1.Flag {
		f := &murmurv1.Flag{Key: key, Type: "number", Dial: 10000}
		for i, v := range values {
			f.Variants = append(f.Variants, &murmurv1.FlagVariant{Name: fmt.Sprintf("v%d", i), ValueJson: v})
		}
		f.On, f.Off = "v0", f.Variants[len(values)-1].Name
		return f
	}
	r.put(number("ints", "42", "7"))
	r.put(number("floats", "42", "0.5"))
	r.put(number("whole-float", "2.0"))
	r.put(number("exponent", "1e3"))
	object := boolFlag("object", 10000)
	object.Type, object.Variants[0].ValueJson, object.Variants[1].ValueJson = "object", `{"a": [1, 2.50]}`, `{}`
	r.put(object)
	for key, want := range map[string]string{"ints": "42", "floats": "42.0", "whole-float": "2.0", "exponent": "1000.0", "object": `{"a":[1,2.50]}`} {
		for _, a := range []answer{r.do("POST", ofrepFlagPrefix+key, `{}`), r.do("POST", ofrepBulkPath, `{}`), r.do("GET", "/v1/flags/"+key, "")} {
			if !strings.Contains(a.body, `"value":`+want+`,`) {
				t.Errorf("%s: %s lacks value %s", key, a.body, want)
			}
		}
	}
}

func TestPlainRead(t *testing.T) {
	r := newWorld(t).server()
	f := boolFlag("geo", 0)
	f.Rules = []*murmurv1.FlagRule{{Variant: "on", Clauses: []*murmurv1.FlagClause{
		{Attribute: "country", Op: "in", ValuesJson: []string{`"at"`}}, {Attribute: "age", Op: "gte", ValuesJson: []string{"18"}},
	}}}
	f = r.put(f)
	a := r.do("GET", "/v1/flags/geo?unit=u1&attr.country=at&attr.age:number=20", "")
	got := a.json(t)
	if got["value"] != true || got["variant"] != "on" || got["reason"] != "TARGETING_MATCH" || got["version"] != float64(f.Version) {
		t.Errorf("%s", a.body)
	}
	if a.header.Get("X-Murmur-Revision") != fmt.Sprint(got["revision"]) || a.header.Get("X-Murmur-Age") != "" {
		t.Errorf("headers %v", a.header)
	}
	// A rule on an attribute that is missing does not match.
	if got := r.do("GET", "/v1/flags/geo?unit=u1&attr.country=at", "").json(t); got["value"] != false {
		t.Errorf("%v", got)
	}
}

func TestSnapshot(t *testing.T) {
	r := newWorld(t).server()
	r.put(boolFlag("b", 1))
	r.put(boolFlag("a", 1))
	a := r.do("GET", "/v1/snapshot", "")
	var snap snapshotJSON
	if err := json.Unmarshal([]byte(a.body), &snap); err != nil || len(snap.Flags) != 2 || snap.Flags[0].Key != "a" || snap.Segments == nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	if again := r.do("GET", "/v1/snapshot", "", "If-None-Match", a.header.Get("ETag")); again.status != http.StatusNotModified || again.body != "" {
		t.Errorf("%d %q", again.status, again.body)
	}
	zipped := r.do("GET", "/v1/snapshot", "", "Accept-Encoding", "gzip")
	reader, err := gzip.NewReader(strings.NewReader(zipped.body))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := io.ReadAll(reader); err != nil || string(plain) != a.body {
		t.Errorf("%q, %v", plain, err)
	}
	r.put(boolFlag("c", 1))
	if again := r.do("GET", "/v1/snapshot", "", "If-None-Match", a.header.Get("ETag")); again.status != http.StatusOK {
		t.Errorf("%d after a change", again.status)
	}
}

// TestETag: the same answers have the same tag, other answers never.
func TestETag(t *testing.T) {
	r := newWorld(t).server()
	f := r.put(boolFlag("half", 5000))
	bulk := func(body string, headers ...string) answer { return r.do("POST", ofrepBulkPath, body, headers...) }
	first := bulk(`{"context":{"targetingKey":"u1","n":1,"o":{"a":1,"b":2}}}`)
	tag := first.header.Get("ETag")
	if same := bulk(`{"context":{"o":{"b":2.0,"a":1e0},"n":1,"targetingKey":"u1"}}`, "If-None-Match", "W/"+tag); same.status != http.StatusNotModified || same.body != "" || same.header.Get("ETag") != tag {
		t.Errorf("the same context in another spelling: %d", same.status)
	}
	for _, other := range []string{
		`{"context":{"targetingKey":"u2","n":1,"o":{"a":1,"b":2}}}`, `{"context":{"targetingKey":"u1","n":1,"o":{"a":1,"b":3}}}`,
		`{"context":{"targetingKey":"u1","n":1}}`, `{"context":{"targetingKey":"u1","n":"1","o":{"a":1,"b":2}}}`, `{}`,
	} {
		if a := bulk(other, "If-None-Match", tag); a.status != http.StatusOK || a.header.Get("ETag") == tag {
			t.Errorf("%s: status %d", other, a.status)
		}
	}
	f.Dial = 0
	r.put(f)
	if a := bulk(`{"context":{"targetingKey":"u1","n":1,"o":{"a":1,"b":2}}}`, "If-None-Match", tag); a.status != http.StatusOK {
		t.Errorf("after a change: status %d", a.status)
	}
}

// TestETagMovesWithSchedule: a schedule changes answers without any write; nodes whose clocks differ disagree only about
// the dial, and their tags say so.
func TestETagMovesWithSchedule(t *testing.T) {
	r := newWorld(t).server()
	f := boolFlag("ramp", 0)
	at := time.Now().Add(time.Hour)
	f.Schedule = &murmurv1.FlagSchedule{Stages: []*murmurv1.FlagStage{{At: timestamppb.New(at), Dial: 5000}}}
	r.put(f)
	ctx, err := parseRequest([]byte(`{"context":{"targetingKey":"u"}}`))
	if err != nil {
		t.Fatal(err)
	}
	st := r.view.load()
	before, after := st.contextETag(&ctx, at.Add(-time.Second)), st.contextETag(&ctx, at)
	if before == after || st.configETag(at.Add(-time.Second)) == st.configETag(at) {
		t.Error("the tag does not move with the schedule")
	}
	if st.contextETag(&ctx, at.Add(time.Minute)) != after {
		t.Error("the tag moves without the schedule")
	}
	if next, ok := st.nextDial(at.Add(-time.Minute)); !ok || !next.Equal(at.UTC().Truncate(time.Nanosecond)) {
		t.Errorf("next dial at %v, want %v", next, at)
	}
}

// TestConfigETagWaits: a server that is behind the revision an event named answers when it has caught up.
func TestConfigETagWaits(t *testing.T) {
	r := newWorld(t).server(func(c *Config) { c.pace.catchUp = patience })
	f := r.put(boolFlag("full", 0))
	rev := r.view.load().rev
	path := fmt.Sprintf("%s?flagConfigEtag=%%22%d-abc%%22", ofrepBulkPath, rev+1)
	got := make(chan answer, 1)
	go func() { got <- r.do("POST", path, `{}`) }()
	select {
	case a := <-got:
		t.Fatalf("it did not wait: %s", a.body)
	case <-time.After(50 * time.Millisecond):
	}
	f.Dial = 10000
	r.put(f)
	if a := <-got; !strings.Contains(a.body, `"value":true`) {
		t.Errorf("it answered what was before: %s", a.body)
	}
}

func TestKilledIsStatic(t *testing.T) {
	r := newWorld(t).server()
	r.put(boolFlag("hot", 10000))
	r.kill("hot")
	for _, a := range []answer{r.do("POST", ofrepFlagPrefix+"hot", `{"context":{"targetingKey":"u"}}`), r.do("POST", ofrepBulkPath, `{}`)} {
		for _, want := range []string{`"reason":"STATIC"`, `"variant":"off"`, `"value":false`, `"killed":true`} {
			if !strings.Contains(a.body, want) {
				t.Errorf("%s lacks %s", a.body, want)
			}
		}
	}
}

// TestAgeIsShown: without contact answers say how old they are.
func TestAgeIsShown(t *testing.T) {
	r := newWorld(t).server()
	r.put(boolFlag("full", 10000))
	r.view.contact.Store(time.Now().Add(-time.Minute).UnixNano())
	for _, a := range []answer{r.do("POST", ofrepFlagPrefix+"full", `{}`), r.do("GET", "/v1/snapshot", ""), r.do("GET", "/v1/flags/full", "")} {
		if age := a.header.Get("X-Murmur-Age"); !slices.Contains([]string{"60", "61", "62"}, age) || a.header.Get("Warning") == "" {
			t.Errorf("age %q, warning %q", age, a.header.Get("Warning"))
		}
	}
}

func TestUsageAndMetrics(t *testing.T) {
	r := newWorld(t).server()
	r.put(boolFlag("full", 10000))
	for range 3 {
		r.do("POST", ofrepFlagPrefix+"full", `{}`)
	}
	report := `{"client":"shop","counts":[{"flag":"full","variant":"on","count":39},{"flag":"nope","variant":"on","count":1},{"flag":"full","variant":"huh","count":1},{"flag":"full","variant":"on","count":-5}]}`
	if a := r.do("POST", "/v1/usage", report); a.status != http.StatusNoContent {
		t.Fatalf("%d %s", a.status, a.body)
	}
	sum := r.usage.of("full", time.Now())
	if sum.byVariant["on"] != 42 || sum.byClient["shop"] != 39 || sum.byClient["root"] != 3 || time.Since(sum.last) > time.Minute {
		t.Errorf("%+v", sum)
	}
	if later := r.usage.of("full", time.Now().Add(25*time.Hour)); len(later.byVariant) != 0 {
		t.Errorf("a day later: %+v", later)
	}
	a := r.do("GET", "/metrics", "")
	for _, want := range []string{
		`feature_flag_evaluations_total{feature_flag_key="full",feature_flag_result_reason="static",feature_flag_result_variant="on"} 3`,
		`feature_flag_evaluations_total{feature_flag_key="full",feature_flag_result_reason="unknown",feature_flag_result_variant="on"} 39`,
		"feature_flag_streams{", "feature_flag_revision ",
	} {
		if !strings.Contains(a.body, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}
