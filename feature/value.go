package feature

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// compileValue decodes a variant's value and checks that it is of the flag's type.
func compileValue(t Type, v Variant) (*Value, error) {
	if len(v.Value) > MaxValueBytes {
		return nil, fmt.Errorf("is longer than %d bytes", MaxValueBytes)
	}
	var decoded any
	if err := json.Unmarshal(v.Value, &decoded); err != nil {
		return nil, fmt.Errorf("is not JSON: %w", err)
	}
	var raw bytes.Buffer
	if err := json.Compact(&raw, v.Value); err != nil {
		return nil, err
	}
	out := &Value{Raw: raw.Bytes(), Any: decoded}
	var ok bool
	switch t {
	case Boolean:
		out.Bool, ok = decoded.(bool)
	case String:
		out.Text, ok = decoded.(string)
	case Number:
		out.Number, ok = decoded.(float64)
		ok = ok && out.setInt()
	case Object:
		_, ok = decoded.(map[string]any)
		if _, list := decoded.([]any); list {
			ok = true
		}
	case Mode:
		out.Text, ok = decoded.(string)
		ok = ok && slices.Contains([]string{ModeNormal, ModeReadOnly, ModeStatic}, out.Text)
		if !ok {
			return nil, fmt.Errorf("%s is not one of the modes %q, %q, %q", v.Value, ModeNormal, ModeReadOnly, ModeStatic)
		}
	}
	if !ok {
		return nil, fmt.Errorf("%s is not a value of type %s", v.Value, t)
	}
	return out, nil
}

// setInt keeps whether the number was written as an integer. SDKs check the form: an integer must be printed
// without a fraction and a float with one.
func (v *Value) setInt() bool {
	if math.IsInf(v.Number, 0) || math.IsNaN(v.Number) {
		return false
	}
	if n, err := strconv.ParseInt(string(v.Raw), 10, 64); err == nil {
		v.Int, v.IsInt = n, true
	}
	return true
}
