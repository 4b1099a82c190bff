package ofrep

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The checks below stand for the schemas of OFREP 0.3.0 that their names say. They are as strict as the document, and
// stricter where real providers need it: variant and metadata are always there (the Python and Java providers fail
// without), and reasons are those of the enumeration.

var (
	reasons    = []string{"STATIC", "TARGETING_MATCH", "SPLIT", "UNKNOWN"} // not DISABLED: see package feature
	errorCodes = []string{"PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "GENERAL"}
)

type object = map[string]any

// decode reads one JSON object, numbers as they are written.
func decode(t *testing.T, body []byte) object {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var o object
	if err := dec.Decode(&o); err != nil {
		t.Fatalf("no JSON object: %v\n%s", err, body)
	}
	return o
}

// checkSuccess is evaluationSuccess.
func checkSuccess(o object) error {
	if err := checkKey(o); err != nil {
		return err
	}
	if reason, ok := o["reason"].(string); !ok || !slices.Contains(reasons, reason) {
		return fmt.Errorf("reason %v", o["reason"])
	}
	if v, ok := o["variant"].(string); !ok || v == "" {
		return fmt.Errorf("variant %v", o["variant"])
	}
	if v, ok := o["value"]; !ok || v == nil {
		return fmt.Errorf("value %v: null is no value, and absent is the code's default", v)
	}
	if _, ok := o["value"].([]any); ok {
		return fmt.Errorf("value is an array: OFREP has objects only")
	}
	return checkMetadata(o)
}

// checkFailure is evaluationFailure, or flagNotFound when found is false.
func checkFailure(o object, found bool) error {
	if err := checkKey(o); err != nil {
		return err
	}
	code, _ := o["errorCode"].(string)
	if found && !slices.Contains(errorCodes, code) || !found && code != "FLAG_NOT_FOUND" {
		return fmt.Errorf("errorCode %v", o["errorCode"])
	}
	if _, ok := o["errorDetails"].(string); !ok {
		return fmt.Errorf("errorDetails %v", o["errorDetails"])
	}
	return checkMetadata(o)
}

func checkKey(o object) error {
	if key, ok := o["key"].(string); !ok || key == "" {
		return fmt.Errorf("key %v", o["key"])
	}
	return nil
}

// checkMetadata is metadata: an object of strings, numbers and booleans.
func checkMetadata(o object) error {
	m, ok := o["metadata"].(object)
	if !ok {
		return fmt.Errorf("metadata %v", o["metadata"])
	}
	for name, v := range m {
		switch v.(type) {
		case string, bool, json.Number:
		default:
			return fmt.Errorf("metadata %q is %v", name, v)
		}
	}
	return nil
}

// checkBulk is bulkEvaluationSuccess.
func checkBulk(o object) error {
	flags, ok := o["flags"].([]any)
	if !ok {
		return fmt.Errorf("flags %v", o["flags"])
	}
	for _, f := range flags {
		one, ok := f.(object)
		if !ok {
			return fmt.Errorf("flags has %v", f)
		}
		err := checkSuccess(one)
		if one["errorCode"] != nil {
			err = checkFailure(one, true)
		}
		if err != nil {
			return fmt.Errorf("%v: %w", one["key"], err)
		}
	}
	streams, ok := o["eventStreams"].([]any)
	if !ok || len(streams) == 0 {
		return fmt.Errorf("eventStreams %v", o["eventStreams"])
	}
	for _, s := range streams {
		if err := checkStream(s); err != nil {
			return err
		}
	}
	return checkMetadata(o)
}

// checkStream is eventStream with an eventStreamEndpoint.
func checkStream(v any) error {
	s, _ := v.(object)
	endpoint, _ := s["endpoint"].(object)
	if s["type"] != "sse" || s["url"] != nil || endpoint == nil {
		return fmt.Errorf("event stream %v: want type sse and exactly one of url and endpoint", v)
	}
	if uri, _ := endpoint["requestUri"].(string); !strings.HasPrefix(uri, "/") {
		return fmt.Errorf("requestUri %v", endpoint["requestUri"])
	}
	if n, ok := s["inactivityDelaySec"].(json.Number); !ok || strings.HasPrefix(n.String(), "-") || n == "0" {
		return fmt.Errorf("inactivityDelaySec %v", s["inactivityDelaySec"])
	}
	return nil
}

// checkBulkFailure is bulkEvaluationFailure.
func checkBulkFailure(o object) error {
	if code, _ := o["errorCode"].(string); !slices.Contains(errorCodes, code) {
		return fmt.Errorf("errorCode %v", o["errorCode"])
	}
	if o["flags"] != nil {
		return fmt.Errorf("a failure has flags")
	}
	return checkMetadata(o)
}

// checkEventData is sseEventData.
func checkEventData(o object) error {
	if o["type"] != "refetchEvaluation" {
		return fmt.Errorf("type %v", o["type"])
	}
	if etag, _ := o["etag"].(string); etag == "" {
		return fmt.Errorf("etag %v", o["etag"])
	}
	n, _ := o["lastModified"].(json.Number)
	if at, err := n.Int64(); err != nil || at <= 0 {
		return fmt.Errorf("lastModified %v", o["lastModified"])
	}
	return nil
}
