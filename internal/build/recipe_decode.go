package build

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/release"
)

var (
	typeDuration = reflect.TypeFor[release.Duration]()
	typeDial     = reflect.TypeFor[dial.Dial]()
)

// decodeInto fills r from the syntax tree. It goes on after an error, so that all are told together.
func (d *recipeDecoder) decodeInto(root ast.Node, r *release.Recipe) {
	d.value(root, reflect.ValueOf(r).Elem(), "")
}

// value decodes n into v, a settable value of a type that release.Recipe is made of.
func (d *recipeDecoder) value(n ast.Node, v reflect.Value, path string) {
	if _, seen := d.at[path]; !seen {
		d.at[path] = where(n)
	}
	switch {
	case n.Type() == ast.NullType:
		d.fail(d.at[path], "%s is empty; give it a value or remove it", named(path))
	case v.Type() == typeDuration:
		d.duration(n, v, path)
	case v.Type() == typeDial:
		d.dial(n, v, path)
	default:
		d.kind(n, v, path)
	}
}

func (d *recipeDecoder) kind(n ast.Node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Struct:
		d.fields(n, v, path)
	case reflect.Map:
		d.texts(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	case reflect.String:
		if s, ok := text(n); ok {
			v.SetString(s)
		} else {
			d.mismatch(n, path, "text")
		}
	case reflect.Bool:
		if b, ok := n.(*ast.BoolNode); ok {
			v.SetBool(b.Value)
		} else {
			d.mismatch(n, path, "true or false")
		}
	case reflect.Int, reflect.Int64:
		d.integer(n, v, path)
	default:
		// unreachable unless release.Recipe gains a field of another kind; TestEveryFieldDecodes says so.
		d.fail(where(n), "%s can't be set from %s", named(path), RecipeFile)
	}
}

// fields decodes a mapping into a struct by its yaml tags.
func (d *recipeDecoder) fields(n ast.Node, v reflect.Value, path string) {
	known := map[string]int{}
	var names []string
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		known[name] = i
		names = append(names, name)
	}
	d.pairs(n, path, "a mapping with keys such as `"+names[0]+"`", func(key string, at position, value ast.Node) {
		i, ok := known[key]
		if !ok {
			d.fail(at, "unknown key `%s`%s", key, suggest(key, names))
			return
		}
		sub := join(path, key)
		d.at[sub] = at
		d.value(value, v.Field(i), sub)
	})
}

// texts decodes a mapping into a map[string]string.
func (d *recipeDecoder) texts(n ast.Node, v reflect.Value, path string) {
	m := map[string]string{}
	d.pairs(n, path, "a mapping of names to text", func(key string, at position, value ast.Node) {
		d.at[join(path, key)] = at
		if s, ok := text(value); ok {
			m[key] = s
		} else {
			d.mismatch(value, join(path, key), "text")
		}
	})
	v.Set(reflect.ValueOf(m))
}

// pairs calls fn for every pair of a mapping, and reports keys that are repeated or not text.
func (d *recipeDecoder) pairs(n ast.Node, path, want string, fn func(key string, at position, value ast.Node)) {
	m, ok := n.(ast.MapNode)
	if !ok {
		d.mismatch(n, path, want)
		return
	}
	first := map[string]position{}
	for it := m.MapRange(); it.Next(); {
		at := where(it.Key())
		key, ok := text(it.Key())
		if !ok || it.Value() == nil {
			d.fail(at, "a key must be plain text with a value after the colon")
			continue
		}
		if before, dup := first[key]; dup {
			d.fail(at, "`%s` was already given in line %d", key, before.line)
			continue
		}
		first[key] = at
		fn(key, at, it.Value())
	}
}

func (d *recipeDecoder) list(n ast.Node, v reflect.Value, path string) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.mismatch(n, path, "a list (lines that start with `- `)")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		d.value(item, out.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(out)
}

func (d *recipeDecoder) integer(n ast.Node, v reflect.Value, path string) {
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		d.mismatch(n, path, "a whole number")
		return
	}
	switch x := i.Value.(type) {
	case int64:
		v.SetInt(x)
	case uint64:
		if x > 1<<62 {
			d.fail(where(n), "%s: %d is too large", named(path), x)
			return
		}
		v.SetInt(int64(x))
	default:
		d.mismatch(n, path, "a whole number")
	}
}

func (d *recipeDecoder) duration(n ast.Node, v reflect.Value, path string) {
	s, ok := text(n)
	if !ok {
		d.mismatch(n, path, "a duration such as 30s or 5m")
		return
	}
	if err := v.Addr().Interface().(*release.Duration).UnmarshalText([]byte(s)); err != nil {
		d.fail(where(n), "%s: %v", named(path), err)
	}
}

func (d *recipeDecoder) dial(n ast.Node, v reflect.Value, path string) {
	s, ok := text(n)
	if !ok {
		d.mismatch(n, path, "a dial: 0 to 10000 or a percentage such as 2.5%")
		return
	}
	x, err := dial.Parse(s)
	if err != nil {
		d.fail(where(n), "%s: %v", named(path), err)
		return
	}
	v.Set(reflect.ValueOf(x))
}

func (d *recipeDecoder) mismatch(n ast.Node, path, want string) {
	d.fail(where(n), "%s must be %s, not %s", named(path), want, kindName(n))
}

// text returns a scalar exactly as written: a number or a truth value is its source text, so 1.10 stays "1.10".
func text(n ast.Node) (string, bool) {
	switch x := n.(type) {
	case *ast.StringNode:
		return x.Value, true
	case *ast.LiteralNode:
		return x.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return strings.TrimSpace(n.GetToken().Value), true
	}
	return "", false
}

func kindName(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.IntegerType, ast.FloatType, ast.InfinityType, ast.NanType:
		return "a number"
	case ast.BoolType:
		return "true or false"
	case ast.StringType, ast.LiteralType:
		return "text"
	case ast.NullType:
		return "empty"
	}
	return "this"
}

// where is the position of a node; a mapping's own token is its first colon, so its first key is taken.
func where(n ast.Node) position {
	switch m := n.(type) {
	case *ast.MappingValueNode:
		return where(m.Key)
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return where(m.Values[0].Key)
		}
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return position{t.Position.Line, t.Position.Column}
	}
	return position{1, 1}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func named(path string) string {
	if path == "" {
		return "the file"
	}
	return "`" + path + "`"
}

func sortIssues(issues []Issue) {
	slices.SortStableFunc(issues, func(a, b Issue) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
}

// suggest names the known key nearest to what was written, or all keys when none is near.
func suggest(key string, known []string) string {
	best, distance := "", 1+max(2, len(key)/3)
	for _, k := range known {
		if n := editDistance(strings.ToLower(key), k, distance); n < distance {
			best, distance = k, n
		}
	}
	if best != "" {
		return " (did you mean `" + best + "`?)"
	}
	return "; known here: " + strings.Join(known, ", ")
}

// editDistance is the Levenshtein distance of a and b in bytes, or limit when it is at least that.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], limit)
}
