package artifact

import (
	"fmt"
	"strconv"

	"github.com/murmuration/murmuration/release"
)

const (
	block    = 512
	trailer  = 2 * block
	maxOctal = 1 << 33 // the first size that 11 octal digits cannot hold
)

// padding returns how many zero bytes follow n bytes of content.
func padding(n int64) int64 { return -n & (block - 1) }

// appendHeader appends the tar header of f, with a pax header before it where one is needed. It is the one
// place that knows what our headers look like; see the package's doc.
func appendHeader(b []byte, f release.File) []byte {
	name := f.Path
	if f.Type == release.Directory {
		name += "/"
	}
	var records []byte
	if f.Type == release.Symlink && !fits(f.Target) {
		records = appendRecord(records, "linkpath", f.Target)
	}
	if !fits(name) {
		records = appendRecord(records, "path", name)
	}
	if f.Size >= maxOctal {
		records = appendRecord(records, "size", strconv.FormatInt(f.Size, 10))
	}
	if records != nil {
		b = appendBlock(b, "././@PaxHeader", "", 'x', 0o644, int64(len(records)))
		b = append(b, records...)
		b = append(b, make([]byte, padding(int64(len(records))))...)
	}
	kind := byte('0')
	switch f.Type {
	case release.Directory:
		kind = '5'
	case release.Symlink:
		kind = '2'
	}
	return appendBlock(b, name, f.Target, kind, f.Mode, f.Size)
}

// headerSize is the length of what appendHeader appends.
func headerSize(f release.File) int64 {
	if len(f.Path) < 100 && fits(f.Path) && f.Size < maxOctal && (f.Type != release.Symlink || fits(f.Target)) {
		return block
	}
	return int64(len(appendHeader(nil, f)))
}

// fits reports whether a ustar field of 100 bytes can hold s.
func fits(s string) bool {
	if len(s) > 100 {
		return false
	}
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// appendRecord appends a pax record, "LENGTH KEY=VALUE\n", where LENGTH counts itself.
func appendRecord(b []byte, key, value string) []byte {
	rest := len(key) + len(value) + 3
	size := rest + len(strconv.Itoa(rest))
	size = rest + len(strconv.Itoa(size))
	return fmt.Appendf(b, "%d %s=%s\n", size, key, value)
}

// appendBlock appends one ustar header block (POSIX.1-1988). What does not fit its field is cut off there: a
// pax record before the block carries it whole.
func appendBlock(b []byte, name, target string, kind byte, mode uint32, size int64) []byte {
	start := len(b)
	b = append(b, make([]byte, block)...)
	h := b[start:]
	copy(h[:100], name)
	octal(h[100:108], int64(mode))
	octal(h[108:116], 0) // owner
	octal(h[116:124], 0) // group
	if size >= maxOctal {
		size = 0
	}
	octal(h[124:136], size)
	octal(h[136:148], 0) // time
	copy(h[148:156], "        ")
	h[156] = kind
	copy(h[157:257], target)
	copy(h[257:265], "ustar\x0000")
	octal(h[329:337], 0) // device
	octal(h[337:345], 0)
	var sum int64
	for _, c := range h {
		sum += int64(c)
	}
	octal(h[148:155], sum)
	return b
}

// octal fills field with n in octal digits and a closing zero byte.
func octal(field []byte, n int64) {
	for i := len(field) - 2; i >= 0; i-- {
		field[i] = '0' + byte(n&7)
		n >>= 3
	}
	field[len(field)-1] = 0
}
