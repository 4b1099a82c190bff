package hooks

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/murmuration/murmuration/internal/build"
)

const (
	// zeroID is git's id of nothing: a ref that is created or deleted.
	zeroID = "0000000000000000000000000000000000000000"
	// maxUpdates and maxRefName bound what a push may send us.
	maxUpdates = 10000
	maxRefName = 1024
)

// update is one line of post-receive's input: a ref that moved.
type update struct {
	old, new, ref string
}

func (u update) deletion() bool { return u.new == zeroID }

// readUpdates parses "<old> SP <new> SP <ref> LF" lines (githooks(5)) strictly. No line at all is right: a push
// may have changed nothing.
func readUpdates(r io.Reader) ([]update, error) {
	if r == nil {
		return nil, nil
	}
	var out []update
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxRefName+128)
	for lines.Scan() {
		if len(out) == maxUpdates {
			return nil, fmt.Errorf("read what was pushed: more than %d refs", maxUpdates)
		}
		u, err := parseUpdate(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("read what was pushed: line %d: %w", len(out)+1, err)
		}
		out = append(out, u)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read what was pushed: %w", err)
	}
	return out, nil
}

func parseUpdate(line string) (update, error) {
	before, rest, _ := strings.Cut(line, " ")
	after, ref, ok := strings.Cut(rest, " ")
	u := update{old: before, new: after, ref: ref}
	switch {
	case !ok || !build.IsCommitID(u.old) || !build.IsCommitID(u.new):
		return u, fmt.Errorf("%.200q is not \"<old id> <new id> <ref>\"", line)
	case !validRef(u.ref):
		return u, fmt.Errorf("%.200q is not a ref's name", u.ref)
	case u.old == zeroID && u.new == zeroID:
		return u, errors.New("a ref was neither created, moved nor deleted")
	}
	return u, nil
}

// validRef applies the rules of git-check-ref-format(1), and wants the full name.
func validRef(ref string) bool {
	if len(ref) > maxRefName || !strings.HasPrefix(ref, "refs/") || strings.HasSuffix(ref, ".") ||
		strings.Contains(ref, "..") || strings.Contains(ref, "@{") {
		return false
	}
	for i := range len(ref) {
		if c := ref[i]; c <= ' ' || c == 0x7f || strings.IndexByte("~^:?*[\\", c) >= 0 {
			return false
		}
	}
	for part := range strings.SplitSeq(ref, "/") {
		if part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return true
}
