package flagd

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"unicode/utf8"

	"github.com/murmuration/murmuration/feature"
)

// FuzzRequest holds the request parser to encoding/json: it accepts the same and reads the same.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		``, ` `, `{}`, `{"context":null}`, `{"context":{}}`, `{"context":{"targetingKey":"u","a":1.5e3,"b":[true,null,{"c":"\u00e9\ud83d\ude00\ud83d"}]}}`,
		`{"context":{"targetingKey":1}}`, `{"context":[]}`, `[]`, `"x"`, `{"a":-0,"b":1e999}`, `{"a":01}`, `{"context":{"a":"\x"}}`,
		`{"context":{"a":1,"a":2}}`, `{"context":{}} x`, "{\"context\":{\"a\":\"\x01\"}}", "{\"context\":{\"a\":\"\xff\"}}", `{"context":{"a":"\ud83d\u0041"}}`, `{,}`, `{"a":1,}`, `nul`,
		`{"context":{"targetingKey":1,"targetingKey":"u"}}`, `{"context":1,"context":{"a":"b"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := parseRequest(body)
		if len(bytes.TrimSpace(body)) == 0 {
			return
		}
		var want any
		wantErr := json.Unmarshal(body, &want)
		switch {
		case errors.Is(err, errParse):
			if wantErr == nil && utf8.Valid(body) && depthOf(want) < maxDepth {
				t.Fatalf("refused %q: %v", body, err)
			}
			return
		case wantErr != nil:
			t.Fatalf("accepted %q: %v", body, wantErr)
		}
		object, isObject := want.(map[string]any)
		context, isContext := object["context"].(map[string]any)
		key, isText := context["targetingKey"].(string)
		usable := isObject && (isContext || object["context"] == nil) && (isText || context["targetingKey"] == nil)
		if usable != (err == nil) {
			t.Fatalf("%q: %v, usable %v", body, err, usable)
		}
		if err != nil {
			return
		}
		delete(context, "targetingKey")
		if got.TargetingKey != key || len(context)+len(got.Attributes) > 0 && !reflect.DeepEqual(got.Attributes, context) {
			t.Fatalf("%q: got %+v, want %q %+v", body, got, key, context)
		}
	})
}

func depthOf(v any) int {
	deepest := 0
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			deepest = max(deepest, depthOf(e))
		}
	case map[string]any:
		for _, e := range v {
			deepest = max(deepest, depthOf(e))
		}
	default:
		return 0
	}
	return deepest + 1
}

func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"", "unit=u", "unit=u&attr.a=b", "attr.a:number=1e3", "attr.a:boolean=t", "attr.=x", "unit=a&unit=b", "%zz", "attr.a=%ff", "a;b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		ctx, err := parseQuery(raw)
		if err != nil {
			if ctx.TargetingKey != "" && ctx.Attributes != nil {
				t.Fatalf("%q: half a context beside %v", raw, err)
			}
			return
		}
		for name, v := range ctx.Attributes {
			switch v.(type) {
			case string, float64, bool:
			default:
				t.Fatalf("%q: attribute %q is %T", raw, name, v)
			}
			if name == "" || !utf8.ValidString(name) {
				t.Fatalf("%q: attribute %q", raw, name)
			}
		}
	})
}

// FuzzCopy: whatever the disk holds, it is used whole or refused.
func FuzzCopy(f *testing.F) {
	good, err := encodeCopy(diskCopy{Revision: 7, Newest: 7, Flags: []copyFlag{{Rev: 7, Flag: feature.Flag{
		Key: "a", Type: feature.Boolean, On: "on", Off: "on", Variants: []feature.Variant{{Name: "on", Value: []byte("true")}},
	}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("murmur-flags 1 00 2\n{}"))
	f.Add([]byte("murmur-flags 2 00 0\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		c, err := decodeCopy(file)
		if err != nil {
			if !errors.Is(err, errBadCopy) || c.Revision != 0 {
				t.Fatalf("%+v beside %v", c, err)
			}
			return
		}
		s, err := stateOf(c)
		if err == nil && s.set.Len() > len(c.Flags) {
			t.Fatal("flags out of nothing")
		}
	})
}
