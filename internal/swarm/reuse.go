package swarm

import (
	"cmp"
	"fmt"
	"io"
	"slices"
)

// freeWriter lets a caller write anywhere inside the file, except over what is already verified.
type freeWriter struct{ s *store }

func (w freeWriter) WriteAt(b []byte, off int64) (int, error) {
	m := w.s.meta
	if off < 0 || off > m.Length || int64(len(b)) > m.Length-off {
		return 0, fmt.Errorf("swarm: reuse: write of %d bytes at %d is outside the file of %d", len(b), off, m.Length)
	}
	done := 0
	for done < len(b) {
		at := off + int64(done)
		i := int(at / m.PieceLength)
		within := at - int64(i)*m.PieceLength
		n := min(int64(len(b)-done), m.size(i)-within)
		if _, err := (piece{w.s, i}).WriteAt(b[done:done+int(n)], within); err != nil {
			return done, err
		}
		done += int(n)
	}
	return done, nil
}

// mergeRanges sorts ranges, cuts them to [0, length) and joins those that touch.
func mergeRanges(length int64, ranges []Range) []Range {
	var in []Range
	for _, r := range ranges {
		if r.Off < 0 || r.Len <= 0 || r.Off >= length {
			continue
		}
		in = append(in, Range{r.Off, min(r.Len, length-r.Off)})
	}
	slices.SortFunc(in, func(a, b Range) int { return cmp.Compare(a.Off, b.Off) })
	var out []Range
	for _, r := range in {
		if n := len(out); n > 0 && r.Off <= out[n-1].Off+out[n-1].Len {
			out[n-1].Len = max(out[n-1].Len, r.Off+r.Len-out[n-1].Off)
			continue
		}
		out = append(out, r)
	}
	return out
}

// capped collects at most limit bytes.
type capped struct {
	buf   []byte
	limit int64
}

func (c *capped) Write(b []byte) (int, error) {
	if int64(len(c.buf)+len(b)) > c.limit {
		return 0, fmt.Errorf("swarm: more than the %d bytes asked for: %w", c.limit, io.ErrShortWrite)
	}
	c.buf = append(c.buf, b...)
	return len(b), nil
}
