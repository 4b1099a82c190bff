package build

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/release"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/recipe/*.want anew; review the difference")

// TestRecipeErrors decodes every testdata/recipe/*.yaml and compares the errors with the .want beside it.
func TestRecipeErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/recipe/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = ParseRecipe(data, RecipeFile)
			if err == nil {
				t.Fatal("no error")
			}
			got, golden := err.Error()+"\n", strings.TrimSuffix(file, ".yaml")+".want"
			if *rewrite {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

const tenLines = `# The smallest recipe of a real service.
service: web
build:
  command: go build -trimpath -o out/web ./cmd/web
  output: out
run:
  command: ./web
ports:
  - {name: http, listen: ":8080"}
health:
  - http: /healthz
`

func TestTenLinesDo(t *testing.T) {
	for name, data := range map[string]string{
		"unix": tenLines, "windows": strings.ReplaceAll(tenLines, "\n", "\r\n"), "document marks": "---\n" + tenLines + "...\n",
	} {
		r, err := ParseRecipe([]byte(data), RecipeFile)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := release.Recipe{
			Service: "web", Build: release.Build{Command: "go build -trimpath -o out/web ./cmd/web", Output: "out"},
			Run: release.Run{Command: "./web"}, Ports: []release.Port{{Name: "http", Listen: ":8080"}},
			Health: []release.Health{{HTTP: "/healthz"}},
		}.WithDefaults()
		if diff := cmp.Diff(want, r); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestScalars(t *testing.T) {
	r, err := ParseRecipe([]byte(`service: web
build:
  command: |
    make
    make install
  timeout: 1m30s
  max_output: 0x100000
  env: {VERSION: 1.10, DEBUG: true, EMPTY: "", OCTAL: 0o17, DATE: 2026-01-01, "WITH SPACE VALUE": a b}
strategy:
  steps:
    - hosts: 1
      bake: 5m
    - dial: 2.5%
    - dial: 10000
      manual: true
`), RecipeFile)
	var e *RecipeError
	if !errors.As(err, &e) || len(e.Issues) != 1 || !strings.Contains(err.Error(), "WITH SPACE VALUE") {
		t.Fatalf("error = %v, want only that of the bad name", err)
	}
	r, err = ParseRecipe([]byte("service: web\nbuild:\n  command: |\n    make\n    make install\n  timeout: 1m30s\n  max_output: 0x100000\n"+
		"  env: {VERSION: 1.10, DEBUG: true, EMPTY: \"\", OCTAL: 0o17, DATE: 2026-01-01}\n"+
		"strategy:\n  steps:\n    - hosts: 1\n      bake: 5m\n    - dial: 2.5%\n    - dial: 10000\n      manual: true\n"), RecipeFile)
	if err != nil {
		t.Fatal(err)
	}
	want := release.Build{
		Command: "make\nmake install\n", Output: ".", Timeout: release.Duration(90 * time.Second), MaxOutput: 1 << 20,
		Env: map[string]string{"VERSION": "1.10", "DEBUG": "true", "EMPTY": "", "OCTAL": "0o17", "DATE": "2026-01-01"},
	}
	if diff := cmp.Diff(want, r.Build); diff != "" {
		t.Errorf("build (-want +got):\n%s", diff)
	}
	if s := r.Strategy.Steps; len(s) != 3 || s[0].Hosts != 1 || s[0].Bake.Std() != 5*time.Minute || s[1].Dial != 250 || s[2].Dial != dial.Full || !s[2].Manual {
		t.Errorf("steps = %+v", s)
	}
}

// TestEveryFieldDecodes walks the recipe's type: every field has a yaml name and a kind that the decoder knows.
func TestEveryFieldDecodes(t *testing.T) {
	var walk func(typ reflect.Type, path string)
	walk = func(typ reflect.Type, path string) {
		if typ == typeDuration || typ == typeDial {
			return
		}
		switch typ.Kind() {
		case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
		case reflect.Slice:
			walk(typ.Elem(), path+"[]")
		case reflect.Map:
			if typ != reflect.TypeFor[map[string]string]() {
				t.Errorf("%s: %s can't be decoded", path, typ)
			}
		case reflect.Struct:
			for f := range typ.Fields() {
				f := f
				if f.Tag.Get("yaml") == "" {
					t.Errorf("%s.%s has no yaml name", path, f.Name)
				}
				walk(f.Type, path+"."+f.Tag.Get("yaml"))
			}
		default:
			t.Errorf("%s: %s can't be decoded", path, typ)
		}
	}
	walk(reflect.TypeFor[release.Recipe](), "")
}

func TestHostileRecipes(t *testing.T) {
	if _, err := ParseRecipe(make([]byte, MaxRecipe+1), RecipeFile); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	var steps strings.Builder
	for i := range 400 {
		steps.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	for name, data := range map[string]string{
		"binary":         "service: \xff\xfe\n",
		"nul":            "service: a\x00b\n",
		"flow depth":     strings.Repeat("[", MaxRecipe),
		"flow mappings":  strings.Repeat("{a: ", MaxRecipe/4),
		"dashes":         strings.Repeat("- ", MaxRecipe/2),
		"question marks": strings.Repeat("? ", MaxRecipe/2),
		"indentation":    steps.String(),
		"tags":           strings.Repeat("!a ", MaxRecipe/3),
		"anchors":        strings.Repeat("&a ", MaxRecipe/3),
		"long line":      "service: " + strings.Repeat("a", MaxRecipe-20),
		"many lines":     strings.Repeat("a:\n", MaxRecipe/3),
		"quotes":         strings.Repeat("\"", MaxRecipe),
		"lines allowed":  strings.Repeat("a:\n", maxLines-1),
		"quotes allowed": strings.Repeat("\"", maxQuotes),
		"flow list":      "a: [" + strings.Repeat("a,", MaxRecipe/2-10),
		"flow pairs":     "a: {" + strings.Repeat("a: b,", maxTokens/4),
		"comments":       strings.Repeat("#\n", maxLines-1),
		"comment chars":  strings.Repeat(" #", MaxRecipe/2-1),
		"literal":        "a: |\n" + strings.Repeat(" x\n", maxLines-10) + strings.Repeat(" ", 200000),
		"commas":         strings.Repeat(",", MaxRecipe),
		"colons":         strings.Repeat(":", MaxRecipe),
		"backslashes":    "service: \"" + strings.Repeat("\\", MaxRecipe-20),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseRecipe([]byte(data), RecipeFile)
			if err == nil {
				t.Fatal("accepted")
			}
			if len(err.Error()) > 8<<10 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

func FuzzParseRecipe(f *testing.F) {
	f.Add([]byte(tenLines))
	files, err := filepath.Glob("testdata/recipe/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRecipe(data, RecipeFile)
		if err == nil {
			if err := r.Validate(); err != nil {
				t.Errorf("an invalid recipe was accepted: %v", err)
			}
			return
		}
		e, ok := errors.AsType[*RecipeError](err)
		if !ok {
			if !errors.Is(err, ErrTooLarge) {
				t.Errorf("error of type %T", err)
			}
			return
		}
		if len(e.Issues) == 0 || len(e.Issues) > maxIssues {
			t.Errorf("%d issues", len(e.Issues))
		}
		if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' && r != '\n' }) {
			t.Errorf("a control character in %q", err)
		}
	})
}
