package build

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func newTestLog(t *testing.T, limit int64) (*logFile, func() string) {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	l, err := newLogFile(root, "log", nil, limit)
	if err != nil {
		t.Fatal(err)
	}
	return l, func() string {
		b, err := root.ReadFile("log")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

func TestLogIsCutAtItsLimit(t *testing.T) {
	l, read := newTestLog(t, 10)
	var told []error
	l.onFull(func(err error) { told = append(told, err) })
	for _, s := range []string{"12345\n", "6789", "0", "x", "y"} {
		if n, err := l.Write([]byte(s)); n != len(s) || err != nil {
			t.Errorf("Write(%q) = %d, %v", s, n, err)
		}
	}
	l.say("over")
	if got := read(); got != "12345\n6789\nmurmur: over\n" {
		t.Errorf("log = %q", got)
	}
	if len(told) != 1 || !errors.Is(told[0], ErrLogFull) {
		t.Errorf("told %v", told)
	}
}

func TestLogThatCannotBeWrittenEndsTheBuild(t *testing.T) {
	l, _ := newTestLog(t, 1000)
	var told error
	l.onFull(func(err error) { told = err })
	l.f.Close()
	if n, err := l.Write([]byte("x")); n != 1 || err != nil || !errors.Is(told, os.ErrClosed) {
		t.Errorf("Write = %d, %v; told %v", n, err, told)
	}
}

func TestLastLine(t *testing.T) {
	for _, tt := range []struct{ parts, want string }{
		{"", ""},
		{"one\n|two\n|\n \n", "two"},
		{"one\ntw|o, not ended", "two, not ended"},
		{strings.Repeat("long", 1000), strings.Repeat("long", 75)},
		{"\x1b[31mred\x1b[0m\n", "[31mred[0m"},
	} {
		l, _ := newTestLog(t, 1<<20)
		for p := range strings.SplitSeq(tt.parts, "|") {
			if _, err := l.Write([]byte(p)); err != nil {
				t.Fatal(err)
			}
		}
		if got := l.lastLine(); got != tt.want {
			t.Errorf("%q: last line %q, want %q", tt.parts, got, tt.want)
		}
	}
}
