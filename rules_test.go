package murmuration

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/murmuration/murmuration"

// Rooms of the house. A package belongs to the room of its longest matching prefix.
var (
	domain = []string{"dial", "release", "fleet", "rollout", "canary", "gate", "feature"}

	foundations = []string{"internal/version", "internal/freeport", "internal/record", "internal/durable", "internal/wire", "internal/artifact", "proto"}

	adapters = []string{
		"internal/etcdstore", "internal/memstore", "internal/storetest", "internal/swarm", "internal/metrics",
		"internal/identity", "internal/build", "internal/client",
	}

	roles = []string{"seeder", "agent", "flagd", "webui", "hooks", "darkmode"}
)

// allowedOutside lists what the domain may import besides the standard library.
var allowedOutside = map[string][]string{
	"dial": {"github.com/twmb/murmur3"},
}

// bannedInDomain are standard packages that would give the domain hands or a clock of its own.
var bannedInDomain = []string{"os", "net", "net/http", "context", "log", "log/slog", "math/rand", "math/rand/v2", "crypto/rand", "sync", "database/sql", "os/exec"}

// onlyIn says which dependency may be imported below which folder only.
var onlyIn = map[string]string{
	"github.com/anacrolix/": "internal/swarm",
	"go.etcd.io/etcd/":      "internal/etcdstore",
	"github.com/go-git/":    "internal/build",
	"github.com/goccy/":     "internal/build",
}

// onlyInToo lists further places for a dependency of onlyIn, each with its reason.
var onlyInToo = map[string][]string{
	// The agent reads a configuration file of its own.
	"github.com/goccy/": {"cmd/murmur-agent"},
}

// forbiddenInAgent is what the host's binary may not contain, and why.
var forbiddenInAgent = map[string]string{
	"go.etcd.io/etcd/":                        "only the control plane talks to etcd",
	"github.com/gin-gonic/":                   "hosts serve no web page",
	"github.com/prometheus/":                  "hosts hold no metrics database",
	"github.com/go-git/":                      "hosts build nothing",
	module + "/seeder":                        "the host's binary holds no server role",
	module + "/flagd":                         "the host's binary holds no server role",
	module + "/internal/etcdstore":            "only the control plane talks to etcd",
	module + "/internal/identity/identityapi": "hosts decide nothing about identity",
}

// longFiles lists files over 500 lines with the reason each has.
var longFiles = map[string]string{}

type pkg struct {
	ImportPath  string
	Dir         string
	Name        string
	Doc         string
	Imports     []string
	GoFiles     []string
	TestGoFiles []string
}

func (p pkg) rel() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func goList(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Name,Doc,Imports,GoFiles,TestGoFiles"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}

func in(rel string, rooms ...string) bool {
	return slices.ContainsFunc(rooms, func(room string) bool {
		return rel == room || strings.HasPrefix(rel, room+"/")
	})
}

func roomOf(rel string, rooms []string) string {
	best := ""
	for _, r := range rooms {
		if in(rel, r) && len(r) > len(best) {
			best = r
		}
	}
	return best
}

func TestImportsRunOneWay(t *testing.T) {
	for _, p := range goList(t, "./...") {
		for _, imp := range p.Imports {
			if why := forbiddenImport(p.rel(), imp); why != "" {
				t.Errorf("%s imports %s: %s", p.rel(), imp, why)
			}
		}
	}
}

func forbiddenImport(from, imp string) string {
	for prefix, home := range onlyIn {
		if strings.HasPrefix(imp, prefix) && !in(from, home) && !in(from, onlyInToo[prefix]...) {
			return "only " + home + " wraps it"
		}
	}
	to, ours := strings.CutPrefix(imp, module+"/")
	switch {
	case in(from, domain...):
		return domainMay(from, imp, to, ours)
	case !ours || in(from, "cmd", "e2e", "scripts", ""):
		return ""
	case in(to, "cmd"):
		return "nothing imports a binary"
	case in(from, foundations...) && in(to, append(slices.Clone(adapters), roles...)...):
		return "a foundation stands below adapters and roles"
	case in(from, adapters...) && in(to, roles...):
		return "an adapter never imports a role"
	case in(from, adapters...) && in(to, adapters...) && roomOf(from, adapters) != roomOf(to, adapters):
		return "adapters never import each other"
	case in(from, roles...) && in(to, roles...) && roomOf(from, roles) != roomOf(to, roles):
		return "roles never import each other"
	}
	return ""
}

func domainMay(from, imp, to string, ours bool) string {
	switch {
	case ours && !in(to, domain...):
		return "the domain imports only the domain"
	case ours:
		return ""
	case slices.Contains(bannedInDomain, imp):
		return "the domain has no hands and no clock"
	case strings.Contains(imp, ".") && !slices.Contains(allowedOutside[roomOf(from, domain)], imp):
		return "the domain imports only the standard library"
	}
	return ""
}

// TestDomainHasNoClock looks for calls that read time or chance, which imports alone do not show.
func TestDomainHasNoClock(t *testing.T) {
	banned := map[string]bool{"time.Now": true, "time.Since": true, "time.Until": true, "time.Sleep": true, "time.After": true, "time.NewTimer": true}
	eachFunc(t, func(file string, fset *token.FileSet, fn *ast.FuncDecl) {
		if !in(filepath.ToSlash(filepath.Dir(file)), domain...) || fn.Body == nil {
			return
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && banned[x.Name+"."+sel.Sel.Name] {
				t.Errorf("%s: %s.%s in the domain: now is data there", fset.Position(n.Pos()), x.Name, sel.Sel.Name)
			}
			return true
		})
	})
}

func TestEveryPackageHasADoc(t *testing.T) {
	for _, p := range goList(t, "./...") {
		if in(p.rel(), "proto") || len(p.GoFiles) == 0 {
			continue
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command " + filepath.Base(p.Dir) + " "
		}
		if !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: the package doc must start with %q and say what the package promises; it is %q", p.rel(), want, p.Doc)
		}
	}
}

func TestAgentBinaryStaysLean(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./cmd/murmur-agent").Output()
	if err != nil {
		t.Fatalf("go list -deps ./cmd/murmur-agent: %v", err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		for prefix, why := range forbiddenInAgent {
			if strings.HasPrefix(dep, prefix) {
				t.Errorf("murmur-agent links %s: %s", dep, why)
			}
		}
	}
}

// TestLengthBudget keeps the tail short: functions of at most 35 lines at the 90th percentile, at most 2 %
// over 60, none over 120, and files over 500 lines only with a listed reason.
func TestLengthBudget(t *testing.T) {
	const p90, long, longest, share = 35, 60, 120, 0.02
	var lengths []int
	over := 0
	eachFunc(t, func(file string, fset *token.FileSet, fn *ast.FuncDecl) {
		n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
		lengths = append(lengths, n)
		if n > long {
			over++
			t.Logf("%d lines: %s %s", n, fset.Position(fn.Pos()), fn.Name.Name)
		}
		if n > longest {
			t.Errorf("%s: %s is %d lines long, the most is %d", fset.Position(fn.Pos()), fn.Name.Name, n, longest)
		}
	})
	slices.Sort(lengths)
	if got := lengths[len(lengths)*9/10]; got > p90 {
		t.Errorf("the 90th percentile of function lengths is %d lines, the budget is %d", got, p90)
	}
	if got := float64(over) / float64(len(lengths)); got > share {
		t.Errorf("%.1f%% of functions are over %d lines, the budget is %.0f%%", got*100, long, share*100)
	}
	eachFile(t, func(file string, src []byte) {
		if n := bytes.Count(src, []byte("\n")); n > 500 && longFiles[file] == "" {
			t.Errorf("%s has %d lines: split it, or list it with a reason", file, n)
		}
	})
}

// TestNothingNamesAMachine keeps paths and registries of somebody's machine out of the project.
func TestNothingNamesAMachine(t *testing.T) {
	banned := []string{"/work" + "/main", "/work" + "/shared", "proxy.golang" + ".org", "registry.npmjs" + ".org", "deb.debian" + ".org"}
	out, err := exec.Command("git", "ls-files").Output()
	if err != nil {
		t.Skipf("not a git checkout: %v", err)
	}
	for file := range strings.Lines(string(out)) {
		file = strings.TrimSpace(file)
		src, err := os.ReadFile(file)
		if err != nil {
			continue // deleted, or a link to nowhere
		}
		for _, b := range banned {
			if bytes.Contains(src, []byte(b)) {
				t.Errorf("%s names %s", file, b)
			}
		}
	}
}

// eachFile calls fn with every hand-written Go source that is not a test.
func eachFile(t *testing.T, fn func(file string, src []byte)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if name := d.Name(); name == "node_modules" || name == "testdata" || name == "third_party" || (strings.HasPrefix(name, ".") && name != ".") {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(path, ".go"), strings.HasSuffix(path, "_test.go"), strings.HasSuffix(path, ".pb.go"), strings.HasSuffix(path, ".connect.go"):
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fn(filepath.ToSlash(path), src)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func eachFunc(t *testing.T, fn func(file string, fset *token.FileSet, decl *ast.FuncDecl)) {
	t.Helper()
	fset := token.NewFileSet()
	eachFile(t, func(file string, src []byte) {
		f, err := parser.ParseFile(fset, file, src, parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			return
		}
		for _, d := range f.Decls {
			if decl, ok := d.(*ast.FuncDecl); ok {
				fn(file, fset, decl)
			}
		}
	})
}
