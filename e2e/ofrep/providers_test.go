package ofrep

import (
	"cmp"
	"context"
	"encoding/json"
	"testing"

	"connectrpc.com/connect"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/open-feature/go-sdk-contrib/providers/ofrep"
	"github.com/open-feature/go-sdk/openfeature"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

// detail is what an SDK's evaluation gives.
type detail struct {
	Value     any            `json:"value"`
	Variant   string         `json:"variant"`
	Reason    string         `json:"reason"`
	ErrorCode string         `json:"errorCode"`
	Metadata  map[string]any `json:"flagMetadata"`
}

// provider is one of OpenFeature's providers with its SDK. kind is boolean, string, int, float or object.
type provider interface {
	evaluate(t *testing.T, kind, key string, fallback any, ctx object) detail
}

// scenario is one evaluation that every provider must get right.
type scenario struct {
	name     string
	kind     string
	key      string
	fallback any
	ctx      object
	want     detail
}

var (
	user      = object{"targetingKey": "user-1"}
	scenarios = []scenario{
		{"on", "boolean", "bool-on", false, user, detail{Value: true, Variant: "on", Reason: "STATIC"}},
		{"off though the code says on", "boolean", "bool-off", true, user, detail{Value: false, Variant: "off", Reason: "STATIC"}},
		{"string with a quote and an accent", "string", "theme", "none", user, detail{Value: `blau "é"`, Variant: "blue", Reason: "STATIC"}},
		{"integer", "int", "limit", 0.0, user, detail{Value: 42.0, Variant: "high", Reason: "STATIC"}},
		{"float", "float", "ratio", 0.0, user, detail{Value: 0.25, Variant: "some", Reason: "STATIC"}},
		{"whole float", "float", "ratio-whole", 0.0, user, detail{Value: 1.0, Variant: "one", Reason: "STATIC"}},
		{"object", "object", "config", object{}, user, detail{Value: object{"size": 3.0, "names": []any{"a", "b"}}, Variant: "big", Reason: "STATIC"}},
		{"mode", "string", "mode", "normal", user, detail{Value: "read-only", Variant: "read-only", Reason: "STATIC"}},
		{"split", "boolean", "half", false, object{"targetingKey": "user-1"}, detail{Value: halfHas("user-1"), Variant: half("user-1"), Reason: "SPLIT"}},
		{"split, other unit", "boolean", "half", false, object{"targetingKey": "user-2"}, detail{Value: halfHas("user-2"), Variant: half("user-2"), Reason: "SPLIT"}},
		{"targeting by text", "string", "staff", "none", object{"targetingKey": "u", "email": "ann@shop.example"}, detail{Value: "inner", Variant: "inner", Reason: "TARGETING_MATCH"}},
		{"targeting by number", "string", "staff", "none", object{"targetingKey": "u", "age": 60.0}, detail{Value: "inner", Variant: "inner", Reason: "TARGETING_MATCH"}},
		{"targeting does not match", "string", "staff", "none", object{"targetingKey": "u", "age": 59.5, "email": "x@else.example"}, detail{Value: "outer", Variant: "outer", Reason: "STATIC"}},
		{"no targeting key where none is needed", "boolean", "bool-on", false, object{}, detail{Value: true, Variant: "on", Reason: "STATIC"}},
		{"no targeting key where one is", "boolean", "half", true, object{"plan": "free"}, detail{Value: true, Reason: "ERROR", ErrorCode: "TARGETING_KEY_MISSING"}},
		{"unknown flag", "boolean", "nope", true, user, detail{Value: true, Reason: "ERROR", ErrorCode: "FLAG_NOT_FOUND"}},
		{"another type", "string", "bool-on", "mine", user, detail{Value: "mine", Reason: "ERROR", ErrorCode: "TYPE_MISMATCH"}},
	}
)

// check compares what matters: values always, the rest where the SDK's own words are not in play.
func check(t *testing.T, got, want detail) {
	t.Helper()
	metadata := got.Metadata
	got.Metadata = nil
	if want.ErrorCode != "" {
		got.Variant = "" // some SDKs pass the variant of an error on, others do not
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if want.ErrorCode != "" {
		return
	}
	for _, name := range []string{"version", "revision", "killed"} {
		if _, ok := metadata[name]; !ok {
			t.Errorf("metadata lacks %q: %v", name, metadata)
		}
	}
}

// play runs all scenarios, and a kill while the provider is in use.
func play(t *testing.T, w *world, p provider, killKey string, settle func(key string)) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { check(t, p.evaluate(t, s.kind, s.key, s.fallback, s.ctx), s.want) })
	}
	t.Run("killed is off though the code says on", func(t *testing.T) {
		before := p.evaluate(t, "boolean", killKey, true, user)
		check(t, before, detail{Value: true, Variant: "on", Reason: "STATIC"})
		w.kill(killKey)
		settle(killKey)
		after := p.evaluate(t, "boolean", killKey, true, user)
		check(t, after, detail{Value: false, Variant: "off", Reason: "STATIC"})
		if after.Metadata["killed"] != true {
			t.Errorf("metadata does not say killed: %v", after.Metadata)
		}
		w.restore(killKey)
		settle(killKey)
		check(t, p.evaluate(t, "boolean", killKey, false, user), detail{Value: true, Variant: "on", Reason: "STATIC"})
	})
}

func TestGoProvider(t *testing.T) {
	w := newWorld(t)
	w.define()
	err := openfeature.SetNamedProviderAndWait(t.Name(), ofrep.NewProvider(w.url, ofrep.WithBearerToken(w.token), ofrep.WithClient(w.http)))
	if err != nil {
		t.Fatal(err)
	}
	play(t, w, goProvider{openfeature.NewClient(t.Name())}, "checkout.v2", func(string) {})
}

// goProvider is the provider of the Go SDK.
type goProvider struct{ client *openfeature.Client }

func (p goProvider) evaluate(t *testing.T, kind, key string, fallback any, attrs object) detail {
	t.Helper()
	unit, _ := attrs["targetingKey"].(string)
	rest := object{}
	for name, v := range attrs {
		if name != "targetingKey" {
			rest[name] = v
		}
	}
	at, ctx := openfeature.NewEvaluationContext(unit, rest), t.Context()
	switch kind {
	case "boolean":
		d, _ := p.client.BooleanValueDetails(ctx, key, fallback.(bool), at) // errors are in the details too
		return goDetail(d.Value, d.EvaluationDetails)
	case "string":
		d, _ := p.client.StringValueDetails(ctx, key, fallback.(string), at)
		return goDetail(d.Value, d.EvaluationDetails)
	case "int":
		d, _ := p.client.IntValueDetails(ctx, key, int64(fallback.(float64)), at)
		return goDetail(float64(d.Value), d.EvaluationDetails)
	case "float":
		d, _ := p.client.FloatValueDetails(ctx, key, fallback.(float64), at)
		return goDetail(d.Value, d.EvaluationDetails)
	}
	d, _ := p.client.ObjectValueDetails(ctx, key, fallback, at)
	return goDetail(d.Value, d.EvaluationDetails)
}

func goDetail(value any, d openfeature.EvaluationDetails) detail {
	return detail{Value: value, Variant: d.Variant, Reason: string(d.Reason), ErrorCode: string(d.ErrorCode), Metadata: map[string]any(d.FlagMetadata)}
}

func TestJavaScriptServerProvider(t *testing.T) {
	w := newWorld(t)
	w.define()
	play(t, w, serverProvider{startDriver(t, w)}, "checkout.v2", func(string) {})
}

type serverProvider struct{ *driver }

func (p serverProvider) evaluate(t *testing.T, kind, key string, fallback any, ctx object) detail {
	t.Helper()
	return reply[detail](t, p.driver, object{"op": "server", "kind": jsKind(kind), "key": key, "fallback": fallback, "context": ctx})
}

func TestJavaScriptWebProvider(t *testing.T) {
	w := newWorld(t)
	w.define()
	d := startDriver(t, w)
	t.Run("ETag", func(t *testing.T) {
		// At the first event of its stream, which comes at once, the provider asks again, and nothing has changed.
		log := waitExchanges(t, d, 2)
		if log[0].Status != 200 || log[0].ETag == "" {
			t.Errorf("first exchange %+v", log[0])
		}
		if log[1].Status != 304 || log[1].IfNoneMatch != log[0].ETag {
			t.Errorf("second exchange %+v, want 304 for %s", log[1], log[0].ETag)
		}
	})
	play(t, w, webProvider{d}, "checkout.v3", func(key string) {
		reply[bool](t, d, object{"op": "changed", "key": key})
	})
	t.Run("flagConfigEtag", func(t *testing.T) {
		for _, e := range waitExchanges(t, d, 1) {
			if e.Query != "" && e.Status == 200 {
				return
			}
		}
		t.Error("no refetch named the configuration that its event told of")
	})
}

type webProvider struct{ *driver }

// evaluate sets the context first: in browsers there is one for all evaluations.
func (p webProvider) evaluate(t *testing.T, kind, key string, fallback any, ctx object) detail {
	t.Helper()
	reply[bool](t, p.driver, object{"op": "webContext", "context": ctx})
	return reply[detail](t, p.driver, object{"op": "web", "kind": jsKind(kind), "key": key, "fallback": fallback})
}

// jsKind is the kind in JavaScript, which has one sort of number.
func jsKind(kind string) string {
	if kind == "int" || kind == "float" {
		return "number"
	}
	return kind
}

// TestSplitAgrees: every provider's SDK gets, over OFREP, what the write API says of the same unit.
func TestSplitAgrees(t *testing.T) {
	w := newWorld(t)
	w.define()
	for _, unit := range []string{"user-1", "user-2", "", "ünï", "a b/c?d"} {
		m, err := w.flags.EvaluateFlag(context.Background(), connect.NewRequest(&murmurv1.EvaluateFlagRequest{Key: "half", TargetingKey: unit}))
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(object{"context": object{"targetingKey": unit}})
		if err != nil {
			t.Fatal(err)
		}
		got := decode(t, w.ask("POST", flagsPath+"/half", string(body), nil).body)
		variant, _ := got["variant"].(string)
		code, _ := got["errorCode"].(string)
		if variant != m.Msg.Variant || code != m.Msg.ErrorCode || cmp.Or(variant, code) == "" {
			t.Errorf("%q: %s%s over OFREP, %s%s over the API", unit, variant, code, m.Msg.Variant, m.Msg.ErrorCode)
		}
	}
}
