package build

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/murmuration/murmuration/release"
)

const (
	// maxIssues is how many problems of one murmur.yaml are told at once.
	maxIssues = 10
	// maxDepth is how deep a murmur.yaml may nest; the deepest real key is at 5.
	maxDepth = 32
	// The YAML library takes time that grows with the square of these; see TestHostileRecipes.
	maxLines, maxQuotes, maxTokens = 4096, 8192, 16384
)

// Issue is one thing wrong with a murmur.yaml.
type Issue struct {
	// Line and Col are where, from 1.
	Line, Col int
	// Msg says what is wrong and what is wanted.
	Msg string
	// Source is the line of the file, "" when there is none to show.
	Source string
}

// RecipeError is everything found wrong with one murmur.yaml, in order of appearance.
type RecipeError struct {
	File string
	// Issues holds at most 10; More is how many are left out.
	Issues []Issue
	More   int
}

// Error renders every issue as "file:line:col: message" with the source line below it.
func (e *RecipeError) Error() string {
	var b strings.Builder
	for i, is := range e.Issues {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:%d:%d: %s", e.File, is.Line, is.Col, is.Msg)
		if is.Source != "" {
			fmt.Fprintf(&b, "\n%5d | %s\n      | %s^", is.Line, is.Source, strings.Repeat(" ", max(is.Col-1, 0)))
		}
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "\n%s: and %d more", e.File, e.More)
	}
	return b.String()
}

// ParseRecipe decodes a murmur.yaml, fills in the defaults and validates it. It is strict: unknown and repeated
// keys, wrong types, several documents, anchors, aliases and tags are errors. file is the name used in messages.
// The error is a [*RecipeError] holding all that is wrong, or wraps [ErrTooLarge] when data is over [MaxRecipe].
func ParseRecipe(data []byte, file string) (release.Recipe, error) {
	if len(data) > MaxRecipe {
		return release.Recipe{}, fmt.Errorf("%s: %d bytes, the limit is %d: %w", file, len(data), MaxRecipe, ErrTooLarge)
	}
	d := &recipeDecoder{lines: strings.Split(string(data), "\n"), at: map[string]position{}}
	var r release.Recipe
	if root := d.parse(data); root != nil {
		d.decodeInto(root, &r)
	}
	if len(d.issues) == 0 {
		r = r.WithDefaults()
		d.addFieldErrors(r.Validate())
	}
	if len(d.issues) > 0 {
		return release.Recipe{}, d.err(file)
	}
	return r, nil
}

type position struct{ line, col int }

// recipeDecoder collects what is wrong while it decodes, and remembers where every field was written.
type recipeDecoder struct {
	lines  []string
	at     map[string]position // by path, as release.FieldError spells it
	issues []Issue
}

func (d *recipeDecoder) fail(p position, format string, args ...any) {
	d.issues = append(d.issues, Issue{Line: p.line, Col: p.col, Msg: printable(fmt.Sprintf(format, args...)), Source: d.source(p.line)})
}

func (d *recipeDecoder) source(line int) string {
	if line < 1 || line > len(d.lines) {
		return ""
	}
	return printable(strings.TrimRight(d.lines[line-1], " \r"))
}

// printable shortens s and replaces what could upset a terminal.
func printable(s string) string {
	const limit = 160
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r < ' ' || (r >= 0x7f && r < 0xa0) || r == utf8.RuneError || r == '\u2028' || r == '\u202e':
			return '\u00b7'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > limit {
		return string(runes[:limit]) + "..."
	}
	return s
}

func (d *recipeDecoder) err(file string) error {
	sortIssues(d.issues)
	e := &RecipeError{File: file, Issues: d.issues}
	if len(e.Issues) > maxIssues {
		e.Issues, e.More = e.Issues[:maxIssues], len(e.Issues)-maxIssues
	}
	return e
}

// parse returns the body of the only document, or nil after reporting why there is none.
func (d *recipeDecoder) parse(data []byte) ast.Node {
	if !utf8.Valid(data) {
		d.fail(position{1, 1}, "the file is not UTF-8 text")
		return nil
	}
	if len(d.lines) > maxLines || bytes.Count(data, []byte(`"`))+bytes.Count(data, []byte("'")) > maxQuotes {
		d.fail(position{1, 1}, "more than %d lines or %d quotes; move long scripts to files of their own", maxLines, maxQuotes)
		return nil
	}
	tokens := lexer.Tokenize(string(data))
	if len(tokens) > maxTokens {
		d.fail(position{1, 1}, "more than %d values; move what is long to files of its own", maxTokens)
		return nil
	}
	if !d.plain(tokens) {
		return nil
	}
	file, err := parseTokens(tokens)
	if err != nil {
		d.failSyntax(err)
		return nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			d.fail(where(doc.Body), "a second document; %s holds exactly one", RecipeFile)
			return nil
		}
		body = doc.Body
	}
	if body == nil || body.Type() == ast.CommentType || body.Type() == ast.CommentGroupType {
		d.fail(position{1, 1}, "the file is empty; at least `service:` is needed")
		return nil
	}
	return body
}

// parseTokens calls the parser, which is not ours and reads what anybody may push: a panic in it is an error.
func parseTokens(tokens token.Tokens) (file *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("not YAML (the parser gave up: %v)", p)
		}
	}()
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// plain refuses what a recipe does not need and what makes YAML dangerous: anchors, aliases, merges, tags,
// directives, and nesting without bound. It runs before the parser, which recurses.
func (d *recipeDecoder) plain(tokens token.Tokens) bool {
	flow, line, onLine := 0, 0, 0
	for _, t := range tokens {
		p := position{t.Position.Line, t.Position.Column}
		if t.Position.Line != line {
			line, onLine = t.Position.Line, 0
		}
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.TagType, token.DirectiveType:
			d.fail(p, "`%s`: anchors, aliases, merges, tags and directives have no place in %s; write the value out", t.Value, RecipeFile)
			return false
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType:
			onLine++
		case token.InvalidType:
			d.fail(p, "not YAML: %s", t.Error)
			return false
		}
		if flow > maxDepth || onLine > maxDepth || t.Position.IndentNum > 16*maxDepth {
			d.fail(p, "nested too deep; the limit is %d levels", maxDepth)
			return false
		}
	}
	return true
}

func (d *recipeDecoder) failSyntax(err error) {
	p, msg := position{1, 1}, err.Error()
	if e, ok := errors.AsType[yaml.Error](err); ok {
		msg = e.GetMessage()
		if t := e.GetToken(); t != nil && t.Position != nil {
			p = position{t.Position.Line, t.Position.Column}
		}
	}
	d.fail(p, "not YAML: %s", msg)
}

// addFieldErrors puts each semantic error on the line of its field, or of the nearest parent that was written.
func (d *recipeDecoder) addFieldErrors(err error) {
	if err == nil {
		return
	}
	found := release.FieldErrors(err)
	if len(found) == 0 {
		d.fail(position{1, 1}, "%v", err)
	}
	for _, fe := range found {
		d.fail(d.locate(fe.Path), "%s: %s", fe.Path, fe.Msg)
	}
}

func (d *recipeDecoder) locate(path string) position {
	for path != "" {
		if p, ok := d.at[path]; ok {
			return p
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return position{1, 1}
}
