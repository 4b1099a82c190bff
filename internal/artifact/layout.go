package artifact

import (
	"bytes"
	"errors"
	"fmt"
	"sort"

	"github.com/murmuration/murmuration/release"
)

// ErrCorrupt is wrapped when an artifact's bytes are not what its manifest or index says.
var ErrCorrupt = errors.New("artifact is corrupt or not what its manifest says")

// corrupt makes an error that wraps ErrCorrupt.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// layout says where everything is in the tar stream that an index describes.
type layout struct {
	files []release.File
	// start[i] is where entry i's header begins; start[len(files)] is where the trailer begins.
	start []int64
}

func newLayout(files []release.File) layout {
	l := layout{files: files, start: make([]int64, len(files)+1)}
	var at int64
	for i, f := range files {
		l.start[i] = at
		at += headerSize(f) + f.Size + padding(f.Size)
	}
	l.start[len(files)] = at
	return l
}

// size is the length of the whole stream.
func (l layout) size() int64 { return l.start[len(l.files)] + trailer }

// visitor is told what a run of the tar stream holds. Both are given the entry's number in the index.
type visitor interface {
	// entry is called once for each folder, symlink and empty file, when the end of its header is seen.
	entry(i int) error
	// content is called with bytes of a file from offset at. They are only valid during the call.
	content(i int, at int64, part []byte) error
}

// visit walks the bytes of the stream from offset on, which must be within the stream, and tells v what they are.
// Bytes that carry no content must be exactly what the index implies.
func (l layout) visit(offset int64, data []byte, v visitor) error {
	// The last entry that starts at or before offset.
	i := sort.Search(len(l.files), func(i int) bool { return l.start[i+1] > offset })
	var buf [3 * block]byte
	for ; i < len(l.files) && len(data) > 0; i++ {
		f := l.files[i]
		within := offset - l.start[i] // how far into the entry data begins
		header := appendHeader(buf[:0], f)
		if within < int64(len(header)) {
			want := header[within:]
			n := min(len(want), len(data))
			if !bytes.Equal(want[:n], data[:n]) {
				return corrupt("the archive's header of %q is not what the index says", f.Path)
			}
			data, offset, within = data[n:], offset+int64(n), within+int64(n)
			if f.Size == 0 && within == int64(len(header)) {
				if err := v.entry(i); err != nil {
					return err
				}
			}
		}
		if at := within - int64(len(header)); at >= 0 && at < f.Size && len(data) > 0 {
			n := min(f.Size-at, int64(len(data)))
			if err := v.content(i, at, data[:n]); err != nil {
				return err
			}
			data, offset = data[n:], offset+n
		}
		pad := min(l.start[i+1]-offset, int64(len(data)))
		if pad > 0 && offset >= l.start[i+1]-padding(f.Size) {
			if !isZero(data[:pad]) {
				return corrupt("bytes after the end of %q", f.Path)
			}
			data, offset = data[pad:], offset+pad
		}
	}
	if !isZero(data) {
		return corrupt("bytes after the last entry")
	}
	return nil
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
