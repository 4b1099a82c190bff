//go:build unix && !linux

package build

import "errors"

func landlockForTest() (int, error) { return 0, errors.New("only Linux has Landlock") }
