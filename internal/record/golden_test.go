package record_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/murmuration/murmuration/internal/record"
)

var update = flag.Bool("update", false, "write missing golden files, and add new fields to those of current versions")

// form is one stored form, with its type put aside.
type form struct {
	name    string
	current int
	// sample is the encoding of a value with every field set; again decodes and encodes.
	sample func() ([]byte, error)
	again  func([]byte) ([]byte, error)
}

func formOf[T record.Form]() form {
	var zero T
	return form{
		name:    reflect.TypeFor[T]().Name(),
		current: zero.Current(),
		sample: func() ([]byte, error) {
			var value T
			fill(reflect.ValueOf(&value).Elem(), &counting{})
			return record.Encode(value)
		},
		again: func(stored []byte) ([]byte, error) {
			value, err := record.Decode[T](stored)
			if err != nil {
				return nil, err
			}
			return record.Encode(value)
		},
	}
}

// forms lists every form of the package; TestFormsComplete fails when one is missing.
func forms() []form {
	return []form{
		formOf[record.Service](), formOf[record.Release](), formOf[record.Build](), formOf[record.Host](),
		formOf[record.Stop](), formOf[record.Rollout](), formOf[record.Leader](), formOf[record.Scripts](),
		formOf[record.User](), formOf[record.Token](), formOf[record.Session](), formOf[record.JoinToken](),
		formOf[record.Builder](), formOf[record.Revocation](), formOf[record.Audit](), formOf[record.AuditHead](),
		formOf[record.Trust](), formOf[record.FleetCA](), formOf[record.Request](),
		formOf[record.Seeder](),
		formOf[record.Flag](), formOf[record.FlagVersion](), formOf[record.Segment](), formOf[record.FlagTickets](),
	}
}

// TestFormsComplete finds every type with a method Current in the package's source.
func TestFormsComplete(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Name.Name == "Current" && fn.Recv != nil {
				want = append(want, fmt.Sprint(fn.Recv.List[0].Type))
			}
		}
	}
	for _, f := range forms() {
		got = append(got, f.name)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("forms() lists %v, the package has %v", got, want)
	}
}

// TestGolden decodes every version of every form ever stored, and checks that nothing in it got lost. The file
// of the current version must have every field: go test ./internal/record -run TestGolden -update adds
// new ones, but never drops or changes what is there.
func TestGolden(t *testing.T) {
	for _, f := range forms() {
		for version := 1; version <= f.current; version++ {
			name := filepath.Join("testdata", "golden", fmt.Sprintf("%s.v%d.json", strings.ToLower(f.name), version))
			t.Run(filepath.Base(name), func(t *testing.T) { golden(t, f, name, version == f.current) })
		}
	}
}

func golden(t *testing.T, f form, name string, current bool) {
	sample, err := f.sample()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := os.ReadFile(name)
	if os.IsNotExist(err) && current && *update {
		writeGolden(t, name, sample)
		return
	}
	if err != nil {
		t.Fatalf("%v: every version of a form needs a file; -update writes that of a new one", err)
	}
	kept, err := f.again(stored)
	if err != nil {
		t.Fatalf("a record stored as %s is lost: %v", name, err)
	}
	if path, ok := holds(body(t, kept), body(t, stored), ""); !ok {
		t.Fatalf("field %s of a record stored as %s is lost", path, name)
	}
	if !current {
		return
	}
	if path, ok := sameFields(body(t, stored), body(t, sample), ""); !ok && *update {
		writeGolden(t, name, sample)
	} else if !ok {
		t.Errorf("%s lacks the new field %s: run go test ./internal/record -run TestGolden -update", name, path)
	}
}

func writeGolden(t *testing.T, name string, sample []byte) {
	var out bytes.Buffer
	if err := json.Indent(&out, sample, "", "\t"); err != nil {
		t.Fatal(err)
	}
	out.WriteByte('\n')
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func body(t *testing.T, stored []byte) any {
	t.Helper()
	var e struct{ Body any }
	if err := json.Unmarshal(stored, &e); err != nil {
		t.Fatal(err)
	}
	return e.Body
}

// holds reports whether everything in want is in got, or the path of what is not.
func holds(got, want any, path string) (string, bool) {
	switch want := want.(type) {
	case map[string]any:
		got, _ := got.(map[string]any)
		for key, value := range want {
			if at, ok := holds(got[key], value, path+"."+key); !ok {
				return at, false
			}
		}
	case []any:
		got, _ := got.([]any)
		if len(got) != len(want) {
			return path, false
		}
		for i, value := range want {
			if at, ok := holds(got[i], value, fmt.Sprintf("%s[%d]", path, i)); !ok {
				return at, false
			}
		}
	default:
		return path, got == want
	}
	return "", true
}

// sameFields reports whether got has every field that want has, whatever its value.
func sameFields(got, want any, path string) (string, bool) {
	switch want := want.(type) {
	case map[string]any:
		got, _ := got.(map[string]any)
		for key, value := range want {
			if strings.HasPrefix(key, "text ") { // a map's key, which is data
				continue
			}
			if _, ok := got[key]; !ok {
				return path + "." + key, false
			}
			if at, ok := sameFields(got[key], value, path+"."+key); !ok {
				return at, false
			}
		}
	case []any:
		got, _ := got.([]any)
		if len(got) == 0 {
			return path, false
		}
		return sameFields(got[0], want[0], path+"[0]")
	}
	return "", true
}

func TestDecodeRefuses(t *testing.T) {
	for name, stored := range map[string]string{
		"newer version": `{"v":2,"body":{}}`,
		"no version":    `{"body":{"name":"web"}}`,
		"not JSON":      `v1 web`,
		"wrong body":    `{"v":1,"body":[]}`,
		"nothing":       ``,
	} {
		if form, err := record.Decode[record.Service]([]byte(stored)); err == nil {
			t.Errorf("%s: decoded as %+v", name, form)
		}
	}
}
