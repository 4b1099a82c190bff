package hooks

import (
	"fmt"
	"strings"
)

// scriptMark is in every script of ours; its number grows when the script changes.
const (
	scriptMark    = "# murmur-hook:"
	scriptVersion = 1
	// localSuffix is added to the name of a hook that was there before ours.
	localSuffix = ".local"
	// maxHookFile bounds what is read of an existing hook to see whose it is, in bytes.
	maxHookFile = 1 << 20
)

// hookKind is one git hook that can be installed.
type hookKind struct {
	name string
	// bare and worktree say in which sort of repository it is installed.
	bare, worktree bool
	// input says that git gives it lines on standard input.
	input bool
	// refuses says that its exit status matters to git. When it does, a missing program refuses too.
	refuses bool
}

// kinds are the hooks that are installed. A hook that refuses (pre-receive, update, pre-push) needs a line here and
// a case in [Run].
func kinds() []hookKind {
	return []hookKind{
		{name: "post-commit", worktree: true},
		{name: "post-receive", bare: true, input: true},
	}
}

// script renders the hook. It runs the earlier hook first, with the same arguments and input.
func (k hookKind) script(binary string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "#!/bin/sh\n%s %d\n", scriptMark, scriptVersion)
	b.WriteString("# Installed by `murmur hooks install`, which replaces it; remove it with `murmur hooks uninstall`.\n")
	fmt.Fprintf(&b, "# A hook of your own belongs into %s%s beside this file: it runs first.\n", k.name, localSuffix)
	fmt.Fprintf(&b, "murmur=%s\n", shellQuote(binary))
	// What a hook that can't refuse returns is nobody's business: go on. What a refusing one returns counts.
	missing, failed := 0, ":"
	if k.refuses {
		missing, failed = 1, "exit $?"
	}
	if k.input {
		b.WriteString("input=$(cat; echo .)\ninput=${input%.}\n")
		fmt.Fprintf(&b, "if [ -x \"$0%[1]s\" ]; then\n  printf %%s \"$input\" | \"$0%[1]s\" \"$@\" || %[2]s\nfi\n", localSuffix, failed)
	} else {
		fmt.Fprintf(&b, "if [ -x \"$0%[1]s\" ]; then\n  \"$0%[1]s\" \"$@\" || %[2]s\nfi\n", localSuffix, failed)
	}
	fmt.Fprintf(&b, "if [ ! -x \"$murmur\" ]; then\n  echo \"murmur: $murmur is not there, so nothing is built; run: murmur hooks install\" >&2\n  exit %d\nfi\n", missing)
	if k.input {
		fmt.Fprintf(&b, "printf %%s \"$input\" | exec \"$murmur\" hooks run %s \"$@\"\n", k.name)
	} else {
		fmt.Fprintf(&b, "exec \"$murmur\" hooks run %s \"$@\"\n", k.name)
	}
	return b.String()
}

// ours reports whether a hook's content was written by [Install].
func ours(content []byte) bool {
	head := strings.SplitN(string(content), "\n", 3)
	return len(head) > 1 && strings.HasPrefix(head[1], scriptMark)
}

// shellQuote makes s one word of a POSIX shell.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
