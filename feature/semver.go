package feature

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// semver is a semantic version (semver.org, 2.0.0). Build metadata does not count in comparisons.
type semver struct {
	major, minor, patch uint64
	pre                 []string
}

func parseSemver(s string) (semver, error) {
	bad := fmt.Errorf("%q is not a semantic version such as 1.2.3", s)
	if len(s) > 256 {
		return semver{}, bad
	}
	core, _, _ := strings.Cut(strings.TrimPrefix(s, "v"), "+")
	core, pre, hasPre := strings.Cut(core, "-")
	parts := strings.Split(core, ".")
	if len(parts) != 3 {
		return semver{}, bad
	}
	var out semver
	for i, to := range []*uint64{&out.major, &out.minor, &out.patch} {
		n, err := strconv.ParseUint(parts[i], 10, 64)
		if err != nil || len(parts[i]) > 1 && parts[i][0] == '0' {
			return semver{}, bad
		}
		*to = n
	}
	if hasPre {
		out.pre = strings.Split(pre, ".")
		if slices.Contains(out.pre, "") {
			return semver{}, bad
		}
	}
	return out, nil
}

func (a semver) compare(b semver) int {
	if c := cmp.Or(cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor), cmp.Compare(a.patch, b.patch)); c != 0 {
		return c
	}
	switch {
	case len(a.pre) == 0 && len(b.pre) == 0:
		return 0
	case len(a.pre) == 0:
		return 1
	case len(b.pre) == 0:
		return -1
	}
	for i := range min(len(a.pre), len(b.pre)) {
		if c := comparePre(a.pre[i], b.pre[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a.pre), len(b.pre))
}

// comparePre compares identifiers: numbers by value and below text, text bytewise.
func comparePre(a, b string) int {
	x, errA := strconv.ParseUint(a, 10, 64)
	y, errB := strconv.ParseUint(b, 10, 64)
	switch {
	case errA == nil && errB == nil:
		return cmp.Compare(x, y)
	case errA == nil:
		return -1
	case errB == nil:
		return 1
	}
	return strings.Compare(a, b)
}
