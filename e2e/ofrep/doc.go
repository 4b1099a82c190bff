// Package ofrep holds the proof that OpenFeature's SDKs work against flagd as they come: its tests run the unmodified
// OFREP providers for Go, JavaScript servers and JavaScript browsers (from npm, in Node) against a running
// flagd, through one table of scenarios, and check every kind of answer against OFREP's OpenAPI document.
//
// The JavaScript half needs npm and a package registry; without npm it is skipped. Versions are pinned in
// testdata/js.
//
// No package ships OFREP's OpenAPI document (open-feature/protocol, service/openapi.yaml, 0.3.0), so its
// schemas are written again as checks in schema_test.go, each named after the schema it stands for.
package ofrep
