package ofrep

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

const flagsPath = "/ofrep/v1/evaluate/flags"

// TestSingleAnswers checks every kind of answer of a single evaluation.
func TestSingleAnswers(t *testing.T) {
	w := newWorld(t)
	w.define()
	ctx := `{"context":{"targetingKey":"user-1"}}`
	for _, tc := range []struct {
		name, key, body string
		status          int
		code            string // "" is success
	}{
		{"boolean", "bool-on", ctx, 200, ""},
		{"string", "theme", ctx, 200, ""},
		{"object", "config", ctx, 200, ""},
		{"split", "half", ctx, 200, ""},
		{"targeting", "staff", `{"context":{"targetingKey":"u","email":"x@shop.example"}}`, 200, ""},
		{"attributes of all types", "bool-on", `{"context":{"targetingKey":"u","n":1.5,"b":true,"x":null,"l":[1,{"a":"b"}],"o":{"p":1}}}`, 200, ""},
		{"no context", "bool-on", `{}`, 200, ""},
		{"null context", "bool-on", `{"context":null}`, 200, ""},
		{"empty context", "bool-on", `{"context":{}}`, 200, ""},
		{"no body", "bool-on", ``, 200, ""},
		{"missing key where nothing hashes", "bool-on", `{"context":{"email":"a"}}`, 200, ""},
		{"missing key where the unit is hashed", "half", `{"context":{"email":"a"}}`, 400, "TARGETING_KEY_MISSING"},
		{"context is no object", "bool-on", `{"context":[1]}`, 400, "INVALID_CONTEXT"},
		{"targeting key is no text", "half", `{"context":{"targetingKey":{}}}`, 400, "INVALID_CONTEXT"},
		{"no JSON", "bool-on", `{"context":`, 400, "PARSE_ERROR"},
		{"unknown flag", "nope", ctx, 404, "FLAG_NOT_FOUND"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := w.ask(http.MethodPost, flagsPath+"/"+tc.key, tc.body, nil)
			if got.status != tc.status || !strings.HasPrefix(got.header.Get("Content-Type"), "application/json") {
				t.Fatalf("status %d, type %q\n%s", got.status, got.header.Get("Content-Type"), got.body)
			}
			o := decode(t, got.body)
			err := checkSuccess(o)
			if tc.code != "" {
				err = checkFailure(o, tc.status != 404)
			}
			if err != nil || tc.code != "" && o["errorCode"] != tc.code || o["key"] != tc.key {
				t.Errorf("%v\n%s", err, got.body)
			}
		})
	}
}

// TestNumbers: SDKs that check types look at how a JSON number is written.
func TestNumbers(t *testing.T) {
	w := newWorld(t)
	w.define()
	for key, want := range map[string]json.Number{"limit": "42", "ratio": "0.25", "ratio-whole": "1.0"} {
		if got := decode(t, w.ask(http.MethodPost, flagsPath+"/"+key, `{}`, nil).body)["value"]; got != want {
			t.Errorf("%s is %v, want %s", key, got, want)
		}
	}
}

// TestRefusals: JSON with metadata on every error, or some providers crash on it.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	w.define()
	for _, path := range []string{flagsPath, flagsPath + "/bool-on"} {
		for _, bad := range []http.Header{{"Authorization": nil}, {"Authorization": {"Bearer nonsense"}}} {
			got := w.ask(http.MethodPost, path, `{}`, bad)
			if got.status != http.StatusUnauthorized {
				t.Errorf("%s with %v: status %d", path, bad, got.status)
			}
			if err := checkMetadata(decode(t, got.body)); err != nil {
				t.Errorf("%s with %v: %v\n%s", path, bad, err, got.body)
			}
		}
		big := `{"context":{"x":"` + strings.Repeat("y", 2<<20) + `"}}`
		if got := w.ask(http.MethodPost, path, big, nil); got.status != http.StatusRequestEntityTooLarge || checkMetadata(decode(t, got.body)) != nil {
			t.Errorf("%s with 2 MiB: status %d\n%s", path, got.status, got.body)
		}
		if got := w.ask(http.MethodPost, path, `{}`, http.Header{"Authorization": nil, "X-Api-Key": {w.token}}); got.status != http.StatusOK {
			t.Errorf("%s with X-API-Key: status %d\n%s", path, got.status, got.body)
		}
	}
	if got := w.ask(http.MethodPost, flagsPath, `{"context":7}`, nil); got.status != http.StatusBadRequest || checkBulkFailure(decode(t, got.body)) != nil {
		t.Errorf("bulk with a bad context: status %d\n%s", got.status, got.body)
	}
}

// TestBulk checks the bulk answer, its ETag, and when that says nothing changed.
func TestBulk(t *testing.T) {
	w := newWorld(t)
	w.define()
	ask := func(ctx, etag string) answer {
		header := http.Header{"Origin": {"https://app.example"}}
		if etag != "" {
			header.Set("If-None-Match", etag)
		}
		return w.ask(http.MethodPost, flagsPath, `{"context":`+ctx+`}`, header)
	}
	first := ask(`{"targetingKey":"user-1","plan":"free","n":1}`, "")
	if err := checkBulk(decode(t, first.body)); first.status != 200 || err != nil {
		t.Fatalf("status %d, %v\n%s", first.status, err, first.body)
	}
	etag := first.header.Get("ETag")
	if !strings.Contains(first.header.Get("Access-Control-Expose-Headers"), "ETag") || !strings.HasPrefix(etag, `"`) {
		t.Errorf("ETag %q, exposed %q", etag, first.header.Get("Access-Control-Expose-Headers"))
	}
	for _, same := range []string{`{"targetingKey":"user-1","plan":"free","n":1}`, `{ "n":1.0, "plan":"free","targetingKey":"user-1"}`} {
		if got := ask(same, etag); got.status != http.StatusNotModified || len(got.body) > 0 || got.header.Get("ETag") != etag {
			t.Errorf("%s: status %d, ETag %q, body %s", same, got.status, got.header.Get("ETag"), got.body)
		}
	}
	if got := ask(`{"targetingKey":"user-1","plan":"free","n":1}`, "W/"+etag); got.status != http.StatusNotModified {
		t.Errorf("a weak ETag: status %d", got.status)
	}
	if got := ask(`{"targetingKey":"user-1","plan":"paid","n":1}`, etag); got.status != http.StatusOK {
		t.Errorf("another context was answered %d: its values may differ", got.status)
	}
	w.kill("bool-on")
	killed := ask(`{"targetingKey":"user-1","plan":"free","n":1}`, etag)
	if killed.status != http.StatusOK || killed.header.Get("ETag") == etag || checkBulk(decode(t, killed.body)) != nil {
		t.Errorf("after a kill: status %d, ETag %q", killed.status, killed.header.Get("ETag"))
	}
}

func TestPreflight(t *testing.T) {
	w := newWorld(t)
	got := w.ask(http.MethodOptions, flagsPath, "", http.Header{
		"Authorization": nil, "Origin": {"https://app.example"}, "Access-Control-Request-Method": {"POST"},
		"Access-Control-Request-Headers": {"content-type,if-none-match,authorization,x-api-key"},
	})
	allowed := strings.ToLower(got.header.Get("Access-Control-Allow-Headers"))
	for _, name := range []string{"content-type", "if-none-match", "authorization", "x-api-key"} {
		if !strings.Contains(allowed, name) {
			t.Errorf("%s is not allowed: %q", name, allowed)
		}
	}
	if got.status >= 300 || got.header.Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("status %d, headers %v", got.status, got.header)
	}
}

// TestEventStream reads the stream that a bulk answer names, without any header: browsers cannot send one.
func TestEventStream(t *testing.T) {
	w := newWorld(t)
	w.define()
	bulk := decode(t, w.ask(http.MethodPost, flagsPath, `{}`, nil).body)
	if err := checkBulk(bulk); err != nil {
		t.Fatal(err)
	}
	endpoint := bulk["eventStreams"].([]any)[0].(object)["endpoint"].(object)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+endpoint["requestUri"].(string), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatalf("status %d, type %q", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	events := bufio.NewScanner(resp.Body)
	first := nextEvent(t, events) // closes the gap of a reconnect
	w.kill("bool-on")
	second := nextEvent(t, events)
	if first["etag"] == second["etag"] {
		t.Errorf("two events name one configuration: %v", first["etag"])
	}
	// The event's ETag comes back as flagConfigEtag: the answer is at least as new.
	got := w.ask(http.MethodPost, flagsPath+"?flagConfigEtag="+url.QueryEscape(second["etag"].(string)), `{}`, nil)
	if err := checkBulk(decode(t, got.body)); got.status != 200 || err != nil || !strings.Contains(string(got.body), `"killed":true`) {
		t.Errorf("status %d, %v\n%s", got.status, err, got.body)
	}
}

// nextEvent reads the next event. It fails on event names, which OFREP forbids.
func nextEvent(t *testing.T, lines *bufio.Scanner) object {
	t.Helper()
	for lines.Scan() {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "event:"); ok && strings.TrimSpace(name) != "message" {
			t.Fatalf("event %q", name)
		}
		if data, ok := strings.CutPrefix(line, "data:"); ok {
			o := decode(t, []byte(data))
			if err := checkEventData(o); err != nil {
				t.Fatal(err)
			}
			return o
		}
	}
	t.Fatalf("the stream ended: %v", lines.Err())
	return nil
}
