package artifact

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/murmuration/murmuration/release"
)

func file(path, content string) release.File {
	return release.File{Path: path, Type: release.Regular, Mode: 0o644, Size: int64(len(content)), Digest: release.DigestOf([]byte(content))}
}

func link(path, target string) release.File {
	return release.File{Path: path, Type: release.Symlink, Mode: 0o777, Target: target}
}

func dir(path string) release.File {
	return release.File{Path: path, Type: release.Directory, Mode: 0o755}
}

// TestForgedIndex has everything signed and every digest right, but the list of files is an attack.
func TestForgedIndex(t *testing.T) {
	for name, c := range map[string]struct {
		files []release.File
		text  string
	}{
		"parent":           {[]release.File{file("../evil", "x")}, `element ".."`},
		"parent below":     {[]release.File{dir("a"), file("a/../../evil", "x")}, `element ".."`},
		"absolute":         {[]release.File{file("/etc/evil", "x")}, "absolute"},
		"empty name":       {[]release.File{file("", "x")}, "empty"},
		"repeated":         {[]release.File{file("a", "x"), file("a", "y")}, "repeated"},
		"out of order":     {[]release.File{file("b", "x"), file("a", "y")}, "out of order"},
		"no folder":        {[]release.File{file("a/b", "x")}, "not below a folder"},
		"through a link":   {[]release.File{link("a", "."), file("a/b", "x")}, "not below a folder"},
		"below a file":     {[]release.File{file("a", "x"), file("a/b", "x")}, "not below a folder"},
		"link out":         {[]release.File{link("a", "../..")}, "leaves"},
		"absolute link":    {[]release.File{link("a", "/etc")}, "absolute"},
		"device":           {[]release.File{{Path: "a", Type: "char", Mode: 0o666}}, "type"},
		"set-user-id":      {[]release.File{{Path: "a", Type: release.Regular, Mode: 0o4755, Digest: release.DigestOf(nil)}}, "mode"},
		"negative size":    {[]release.File{{Path: "a", Type: release.Regular, Size: -1, Digest: release.DigestOf(nil)}}, "size"},
		"a folder's bytes": {[]release.File{{Path: "a", Type: release.Directory, Mode: 0o755, Size: 5}}, "fields"},
		"control":          {[]release.File{file("a\x1b[2J", "x")}, "control"},
	} {
		t.Run(name, func(t *testing.T) {
			content := map[string]string{}
			for _, f := range c.files {
				content[f.Path] = strings.Repeat("x", max(0, int(f.Size)))
			}
			_, err := unpackTo(t, forge(t, streamOf(c.files, content), c.files))
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want ErrCorrupt with %q", err, c.text)
			}
		})
	}
}

// TestForgedStream has a good index and a tar stream that says something else, all digests of chunks right.
func TestForgedStream(t *testing.T) {
	files := []release.File{file("a", "hello"), link("b", "a"), dir("c")}
	good := streamOf(files, map[string]string{"a": "hello"})
	if _, err := unpackTo(t, forge(t, good, files)); err != nil {
		t.Fatalf("the good stream: %v", err)
	}
	evil := func(f release.File) []byte {
		s := slices.Clone(good)
		copy(s[2*block:], appendHeader(nil, f))
		return s
	}
	withByte := func(at int, b byte) []byte {
		s := slices.Clone(good)
		s[at] = b
		return s
	}
	for name, stream := range map[string][]byte{
		"another name":        evil(link("z", "a")),
		"another target":      evil(link("b", "../../etc")),
		"a device":            evil(release.File{Path: "b", Type: release.Regular, Mode: 0o777}),
		"another mode":        withByte(105, '7'),
		"a time":              withByte(140, '1'),
		"bytes after a file":  withByte(block+5, 'x'),
		"bytes after the end": withByte(len(good)-1, 'x'),
	} {
		if _, err := unpackTo(t, forge(t, stream, files)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want ErrCorrupt", name, err)
		}
	}
	// A wrong digest of a file is found by Verify, before anything is published.
	lie := slices.Clone(files)
	lie[0].Digest = release.DigestOf([]byte("other"))
	p := forge(t, good, lie)
	if err := Verify(t.Context(), bytes.NewReader(p.file), p.a, p.idx); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("a false file digest: Verify says %v", err)
	}
}

// TestBombs has frames and indexes that swell far beyond what is declared.
func TestBombs(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := enc.EncodeAll(make([]byte, 64<<20), nil)
	files := []release.File{file("a", "hello")}
	p := forge(t, streamOf(files, map[string]string{"a": "hello"}), files)
	idx := p.idx
	idx.Chunks = slices.Clone(idx.Chunks)
	idx.Chunks[0].FrameSize = int64(len(bomb))
	p.file = append(slices.Clone(bomb), p.file[p.a.IndexOffset:]...)
	p.a.IndexOffset = int64(len(bomb))
	if _, err := unpackTo(t, withIndex(t, p, idx)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a frame of 64 MiB: got %v", err)
	}
	if _, err := unpackTo(t, withIndexText(t, p, make([]byte, maxIndexText+1))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("an index beyond its bound: got %v", err)
	}
}

// TestDamaged flips and cuts bytes of a real artifact: all of it is found, wherever it is.
func TestDamaged(t *testing.T) {
	p := pack1(t, makeTree(t, oddTree()))
	for i := 0; i < len(p.file); i += 1 + len(p.file)/97 {
		q := p
		q.file = slices.Clone(p.file)
		q.file[i] ^= 0x10
		err := VerifyFile(t.Context(), bytes.NewReader(q.file), q.a)
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("bit flipped at %d: VerifyFile says %v", i, err)
		}
		q.file = p.file[:i]
		if _, err := unpackTo(t, q); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut at %d: got %v", i, err)
		}
	}
	// Content bits: a frame exchanged for another good frame of the same size is caught by the chunk's digest.
	q := p
	q.file = slices.Clone(p.file)
	q.file[p.a.IndexOffset-3] ^= 1
	if _, err := unpackTo(t, q); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a flipped bit in the last frame: got %v", err)
	}
}

func fuzzSeed(f *testing.F) packed {
	files := []release.File{file("a", "hello"), link("b", "a"), dir("c"), file("c/d", "deep")}
	return forge(f, streamOf(files, map[string]string{"a": "hello", "c/d": "deep"}), files)
}

// FuzzReadIndex gives ReadIndex arbitrary JSON under right digests. What it accepts must be safe to unpack.
func FuzzReadIndex(f *testing.F) {
	p := fuzzSeed(f)
	text, err := json.Marshal(p.idx)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{}`))
	f.Add(bytes.Replace(text, []byte(`"c/d"`), []byte(`"c/../../d"`), 1))
	f.Add(bytes.Replace(text, []byte(`"target":"a"`), []byte(`"target":"../a"`), 1))
	f.Fuzz(func(t *testing.T, text []byte) {
		q := withIndexText(t, p, text)
		idx, err := ReadIndex(bytes.NewReader(q.file), q.a)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%v does not wrap ErrCorrupt", err)
			}
			return
		}
		for _, file := range idx.Files {
			if err := release.CheckPath(file.Path); err != nil {
				t.Errorf("accepted: %v", err)
			}
		}
		_, _ = unpackTo(t, q)
	})
}

// FuzzUnpack gives Unpack arbitrary tar streams under a good index and right chunk digests, and arbitrary bytes in
// place of the file. Only the exact stream unpacks, and nothing lands outside.
func FuzzUnpack(f *testing.F) {
	p := fuzzSeed(f)
	good := streamOf(p.idx.Files, map[string]string{"a": "hello", "c/d": "deep"})
	f.Add(good, 0, byte(0))
	f.Add(good[:700], 100, byte(1))
	f.Add(append(slices.Clone(good), good...), 5, byte(0xff))
	f.Fuzz(func(t *testing.T, stream []byte, at int, xor byte) {
		if len(stream) == 0 {
			return
		}
		q := forge(t, stream, p.idx.Files)
		if _, err := unpackTo(t, q); (err == nil) && len(stream) != len(good) {
			t.Error("another stream than the index implies was unpacked")
		}
		if at >= 0 && at < len(p.file) && xor != 0 {
			q = p
			q.file = slices.Clone(p.file)
			q.file[at] ^= xor
			if dst, err := unpackTo(t, q); err == nil && len(describeTree(t, dst)) != len(p.idx.Files) {
				t.Error("a damaged artifact was unpacked to something else")
			}
		}
	})
}
