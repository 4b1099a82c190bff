package artifact

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/murmuration/murmuration/release"
)

// entry is one entry of a tree for a test: a folder ends in "/", a symlink has a target.
type entry struct {
	path    string
	content string
	target  string
	mode    fs.FileMode
}

// oddTree is a tree with everything that trips careless tools.
func oddTree() []entry {
	long := strings.Repeat("deep/", 40)
	return []entry{
		{path: "bin/", mode: 0o755},
		{path: "bin/app", content: strings.Repeat("machine code ", 100_000), mode: 0o755},
		{path: "bin-old", content: "sorts between bin and bin/app", mode: 0o600},
		{path: "empty", mode: 0o644},
		{path: "empty-dir/", mode: 0o700},
		{path: "shut/", mode: 0o555},
		{path: "shut/file", content: "read only below a read-only folder", mode: 0o444},
		{path: "none", content: "no permissions", mode: 0},
		{path: "with space and 'quotes\"", content: "x", mode: 0o640},
		{path: "-dash", content: "x", mode: 0o711},
		{path: "back\\slash $HOME;true *", content: "x", mode: 0o644},
		{path: "grüße-名前", content: "not ASCII", mode: 0o664},
		{path: strings.Repeat("n", 100), content: "100 bytes", mode: 0o644},
		{path: strings.Repeat("n", 101), content: "101 bytes", mode: 0o644},
		{path: long + "file", content: "a long path", mode: 0o777},
		{path: long + "link", target: strings.Repeat("../", 40) + "bin/app"},
		{path: "current", target: "bin"},
		{path: "dangling", target: "nowhere/at all"},
		{path: "link-名", target: "grüße-名前"},
	}
}

func makeTree(t testing.TB, entries []entry) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "src")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.path)
		err := os.MkdirAll(filepath.Dir(name), 0o755)
		switch {
		case err != nil:
		case strings.HasSuffix(e.path, "/"):
			err = os.MkdirAll(name, 0o755)
		case e.target != "":
			err = os.Symlink(e.target, name)
		default:
			err = errors.Join(os.WriteFile(name, []byte(e.content), 0o600), os.Chmod(name, e.mode))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range entries {
		if strings.HasSuffix(e.path, "/") {
			if err := os.Chmod(filepath.Join(dir, e.path), e.mode); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, e.path), 0o755) })
		}
	}
	return dir
}

// packed is an artifact in memory.
type packed struct {
	file []byte
	a    release.Artifact
	idx  release.Index
}

func pack1(t testing.TB, src string) packed {
	t.Helper()
	var buf bytes.Buffer
	a, idx, err := Pack(t.Context(), src, &buf, PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return packed{buf.Bytes(), a, idx}
}

// unpackTo unpacks into a fresh folder inside a jail and returns the folder and the error. Anything that appears
// in the jail beside the folder fails the test.
func unpackTo(t testing.TB, p packed) (string, error) {
	t.Helper()
	jail := t.TempDir()
	dst := filepath.Join(jail, "dst")
	if err := os.Mkdir(dst, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	t.Cleanup(func() {
		_ = filepath.WalkDir(dst, func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(name, 0o755)
			}
			return nil
		})
	})
	err = stageAll(t.Context(), p, root)
	left, readErr := os.ReadDir(jail)
	if readErr != nil || len(left) != 1 {
		t.Errorf("the jail holds %v (%v), want only dst", left, readErr)
	}
	return dst, err
}

func stageAll(ctx context.Context, p packed, root *os.Root) error {
	r := bytes.NewReader(p.file)
	idx, err := ReadIndex(r, p.a)
	if err != nil {
		return err
	}
	return Unpack(ctx, r, p.a, idx, root, UnpackOptions{Workers: 3})
}

// forge rebuilds an artifact from a changed tar stream and index, with every digest and size right: what an
// attacker with a builder's key could sign.
func forge(t testing.TB, stream []byte, files []release.File) packed {
	t.Helper()
	var buf bytes.Buffer
	c := newCompressor(t.Context(), &buf, 1)
	if _, err := c.Write(stream); err != nil {
		t.Fatal(err)
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	idx := release.Index{Files: files, Chunks: c.chunks}
	a, err := c.finish(idx)
	if err != nil {
		t.Fatal(err)
	}
	return packed{buf.Bytes(), a, idx}
}

// streamOf is the tar stream of files whose content is given by path.
func streamOf(files []release.File, content map[string]string) []byte {
	var b []byte
	for _, f := range files {
		b = appendHeader(b, f)
		b = append(b, content[f.Path]...)
		b = append(b, make([]byte, padding(f.Size))...)
	}
	return append(b, make([]byte, trailer)...)
}

// withIndexText replaces the index by arbitrary bytes, digests made right.
func withIndexText(t testing.TB, p packed, text []byte) packed {
	t.Helper()
	enc, err := newEncoder()
	if err != nil {
		t.Fatal(err)
	}
	payload := enc.EncodeAll(text, nil)
	frame := binary.LittleEndian.AppendUint32(nil, skippableMagic)
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(payload)))
	frame = append(frame, payload...)
	p.file = append(bytes.Clone(p.file[:p.a.IndexOffset]), frame...)
	p.a.IndexSize, p.a.IndexDigest = int64(len(frame)), release.DigestOf(payload)
	p.a.Size, p.a.Digest = int64(len(p.file)), release.DigestOf(p.file)
	return p
}

func withIndex(t testing.TB, p packed, idx release.Index) packed {
	t.Helper()
	text, err := json.Marshal(idx)
	if err != nil {
		t.Fatal(err)
	}
	p.idx, p.a.Files, p.a.Chunks = idx, len(idx.Files), len(idx.Chunks)
	return withIndexText(t, p, text)
}
