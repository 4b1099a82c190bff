//go:build unix && !linux

package build

import (
	"errors"
	"time"
)

// confine has no Landlock to use here.
func confine(sandboxSpec) (string, error) {
	return "", errors.New("only Linux can confine a build (Landlock)")
}

// adoptOrphans does nothing here: only the build's process group is killed.
func adoptOrphans() {}

// killOrphans finds nothing here: the build's process group was killed before.
func killOrphans(time.Duration) (killed int, survived bool) { return 0, false }
