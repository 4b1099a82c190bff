// Package cmp stands in for go-cmp in the host's binary, where the torrent engine names it in one message about a
// bug of its own. The real package asks types for their methods by number, and a linker that sees this must keep
// every exported method of everything: a fifth of the binary. Our tests use the real one.
package cmp

import "fmt"

// Option is accepted and ignored.
type Option any

// Diff returns both values in full when their texts differ, and "" when they do not.
func Diff(x, y any, _ ...Option) string {
	a, b := fmt.Sprintf("%+v", x), fmt.Sprintf("%+v", y)
	if a == b {
		return ""
	}
	return "-" + a + "\n+" + b + "\n"
}
