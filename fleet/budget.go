package fleet

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrBudget is wrapped by every error of [ParseBudget].
var ErrBudget = errors.New("bad disruption budget")

// ParseBudget reads how many of n hosts may be unavailable at once: a number of hosts ("3") or a share of n
// from 1% to 100% ("25%", rounded down). The result is at least 1, since a budget of nothing could never move.
func ParseBudget(text string, n int) (int, error) {
	digits, percent := strings.CutSuffix(text, "%")
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%w: %q is neither a number of hosts such as 3 nor a share such as 25%%", ErrBudget, text)
		}
	}
	v, err := strconv.Atoi(digits)
	switch {
	case err != nil || v > 1_000_000:
		return 0, fmt.Errorf("%w: %q is neither a number of hosts such as 3 nor a share such as 25%%", ErrBudget, text)
	case v < 1:
		return 0, fmt.Errorf("%w: %q is less than one host", ErrBudget, text)
	case !percent:
		return v, nil
	case v > 100:
		return 0, fmt.Errorf("%w: %q is more than everything", ErrBudget, text)
	}
	return max(1, max(n, 0)*v/100), nil
}
