package release

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"
)

// The longest path, path element and link target a release may hold, in bytes: what Linux file systems take.
const (
	MaxPath = 4095
	MaxName = 255
)

// ErrPath is wrapped by every complaint about a path or a link target.
var ErrPath = errors.New("path is not allowed in a release")

// CheckPath reports whether p may name an entry of a release: relative, slash-separated, clean (no "", "."
// or ".." element), valid UTF-8, without control characters, within [MaxPath] and [MaxName]. Spaces, quotes,
// leading dashes and any printable Unicode are fine. The error wraps [ErrPath].
func CheckPath(p string) error {
	if err := checkText(p); err != nil {
		return fmt.Errorf("path %.200q: %v: %w", p, err, ErrPath)
	}
	if p[0] == '/' {
		return fmt.Errorf("path %.200q: absolute: %w", p, ErrPath)
	}
	for name := range strings.SplitSeq(p, "/") {
		switch {
		case name == "" || name == "." || name == "..":
			return fmt.Errorf("path %.200q: element %q: %w", p, name, ErrPath)
		case len(name) > MaxName:
			return fmt.Errorf("path %.200q: an element longer than %d bytes: %w", p, MaxName, ErrPath)
		}
	}
	return nil
}

// CheckLink reports whether a symlink at linkPath may point to target: relative, and, read as text from the
// link's own folder, never above the root of the tree on the way ("a/../../b" from the root is refused even
// where it would come back). Whether the target exists is not asked. The error wraps [ErrPath].
//
// A chain of links can still mean another place than the text says, so whoever follows links must do it
// inside the tree (os.Root); this check keeps plain mistakes and plain attacks out of an artifact.
func CheckLink(linkPath, target string) error {
	if err := CheckPath(linkPath); err != nil {
		return err
	}
	if err := checkText(target); err != nil {
		return fmt.Errorf("link %.200q to %.200q: %v: %w", linkPath, target, err, ErrPath)
	}
	if target[0] == '/' {
		return fmt.Errorf("link %.200q to %.200q: the target is absolute; make it relative: %w", linkPath, target, ErrPath)
	}
	depth := strings.Count(path.Clean(linkPath), "/")
	for name := range strings.SplitSeq(target, "/") {
		switch name {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return fmt.Errorf("link %.200q to %.200q: the target leaves the release: %w", linkPath, target, ErrPath)
			}
		default:
			depth++
		}
	}
	return nil
}

func checkText(s string) error {
	switch {
	case s == "":
		return errors.New("empty")
	case len(s) > MaxPath:
		return fmt.Errorf("longer than %d bytes", MaxPath)
	case !utf8.ValidString(s):
		return errors.New("not valid UTF-8; rename the file")
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			return fmt.Errorf("control character %#x", r)
		}
	}
	return nil
}
