package feature

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// FieldChange is one difference between two versions of a flag.
type FieldChange struct {
	// Path is the JSON path of the field, for example "rules[0].variant".
	Path string `json:"path"`
	// Before and After are JSON; empty where the field is not there.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Diff lists what differs between two versions, in order of path. The version number itself is left out.
func Diff(before, after Flag) []FieldChange {
	before.Version, after.Version = 0, 0
	a, b := flatten(before), flatten(after)
	paths := map[string]bool{}
	for p := range a {
		paths[p] = true
	}
	for p := range b {
		paths[p] = true
	}
	var out []FieldChange
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		if a[p] != b[p] {
			out = append(out, FieldChange{p, a[p], b[p]})
		}
	}
	return out
}

// flatten maps the path of every leaf to its JSON.
func flatten(f Flag) map[string]string {
	out := map[string]string{}
	body, err := json.Marshal(f)
	if err != nil {
		return out // a flag holds nothing that cannot be marshalled but a broken raw value
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err == nil {
		flattenInto(out, "", v)
	}
	return out
}

func flattenInto(out map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			flattenInto(out, join(path, key), value)
		}
	case []any:
		for i, value := range v {
			flattenInto(out, fmt.Sprintf("%s[%d]", path, i), value)
		}
	default:
		text, err := json.Marshal(v)
		if err == nil {
			out[path] = string(text)
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
