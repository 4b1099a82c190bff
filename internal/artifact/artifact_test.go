package artifact

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/murmuration/murmuration/release"
)

// describeTree lists a tree as an index would, with digests.
func describeTree(t testing.TB, dir string) []release.File {
	t.Helper()
	return pack1(t, dir).idx.Files
}

func TestRoundTrip(t *testing.T) {
	src := makeTree(t, oddTree())
	p := pack1(t, src)
	if err := Verify(t.Context(), bytes.NewReader(p.file), p.a, p.idx); err != nil {
		t.Fatal(err)
	}
	if err := VerifyFile(t.Context(), bytes.NewReader(p.file), p.a); err != nil {
		t.Fatal(err)
	}
	idx, err := ReadIndex(bytes.NewReader(p.file), p.a)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p.idx, idx); diff != "" {
		t.Errorf("index read back (-packed +read):\n%s", diff)
	}
	dst, err := unpackTo(t, p)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p.idx.Files, describeTree(t, dst)); diff != "" {
		t.Errorf("unpacked tree (-packed +unpacked):\n%s", diff)
	}
	if err := (release.Manifest{}).Artifact.Validate(); err == nil {
		t.Error("an empty artifact is valid")
	}
	if err := p.a.Validate(); err != nil {
		t.Error(err)
	}
}

func TestEmptyTree(t *testing.T) {
	p := pack1(t, makeTree(t, nil))
	if dst, err := unpackTo(t, p); err != nil || len(describeTree(t, dst)) != 0 {
		t.Errorf("unpack of an empty tree: %v", err)
	}
}

func TestPackIsDeterministic(t *testing.T) {
	src := makeTree(t, oddTree())
	want := pack1(t, src)
	// Another place, another order of creation, other times, another number of workers.
	other := oddTree()
	slices.Reverse(other)
	again := makeTree(t, other)
	if err := os.Chtimes(filepath.Join(again, "empty"), time.Unix(1, 0), time.Unix(2, 0)); err != nil {
		t.Fatal(err)
	}
	for workers := 1; workers <= 4; workers++ {
		var buf bytes.Buffer
		a, _, err := Pack(t.Context(), again, &buf, PackOptions{Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		if a != want.a || !bytes.Equal(buf.Bytes(), want.file) {
			t.Errorf("%d workers: got %+v, want %+v", workers, a, want.a)
		}
	}
}

// TestStockToolsRead lets zstd and tar read an artifact and compares what they made.
func TestStockToolsRead(t *testing.T) {
	for _, tool := range []string{"zstd", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	p := pack1(t, makeTree(t, oddTree()))
	file, dst := filepath.Join(t.TempDir(), "a.tar.zst"), t.TempDir()
	if err := os.WriteFile(file, p.file, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", `zstd -dc "$0" | tar -x -p -C "$1"`, file, dst).CombinedOutput()
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dst, "shut"), 0o755) })
	if err != nil || len(out) > 0 {
		t.Fatalf("zstd | tar: %v\n%s", err, out)
	}
	if diff := cmp.Diff(p.idx.Files, describeTree(t, dst)); diff != "" {
		t.Errorf("what tar made (-packed +tar):\n%s", diff)
	}
}

// TestGoTarReads reads the stream by Go's archive/tar, another parser than GNU's.
func TestGoTarReads(t *testing.T) {
	p := pack1(t, makeTree(t, oddTree()))
	dec, err := zstd.NewReader(bytes.NewReader(p.file))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	tr := tar.NewReader(dec)
	for _, want := range p.idx.Files {
		h, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSuffix(h.Name, "/"); got != want.Path || uint32(h.Mode) != want.Mode ||
			h.Linkname != want.Target || int64(len(content)) != want.Size || h.ModTime.Unix() != 0 {
			t.Errorf("tar has %+v, the index %+v", h, want)
		}
	}
	if _, err := tr.Next(); err != io.EOF {
		t.Errorf("after the last entry: %v", err)
	}
}

// TestHugeSizes checks the headers of files too large to pack in a test against archive/tar.
func TestHugeSizes(t *testing.T) {
	for _, size := range []int64{maxOctal - 1, maxOctal, 1 << 40} {
		f := release.File{Path: "huge", Type: release.Regular, Mode: 0o644, Size: size}
		b := appendHeader(nil, f)
		if int64(len(b)) != headerSize(f) {
			t.Errorf("size %d: header of %d bytes, headerSize says %d", size, len(b), headerSize(f))
		}
		if h, err := tar.NewReader(bytes.NewReader(b)).Next(); err != nil || h.Size != size || h.Name != "huge" {
			t.Errorf("size %d: archive/tar reads %+v, %v", size, h, err)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		make func(dir string) error
		want error
		text string
	}{
		"pipe": {func(d string) error { return syscall.Mkfifo(d+"/x", 0o600) }, ErrNotPackable, "pipe"},
		"set-user-id": {func(d string) error {
			return errors.Join(os.WriteFile(d+"/x", nil, 0o755), os.Chmod(d+"/x", 0o755|fs.ModeSetuid))
		}, ErrNotPackable, "chmod ug-s"},
		"absolute link": {func(d string) error { return os.Symlink("/etc/passwd", d+"/x") }, ErrNotPackable, "absolute"},
		"escaping link": {func(d string) error { return os.Symlink("../../etc", d+"/x") }, ErrNotPackable, "leaves"},
		"bad UTF-8":     {func(d string) error { return os.WriteFile(d+"/x\xff", nil, 0o644) }, ErrNotPackable, "UTF-8"},
		"newline":       {func(d string) error { return os.WriteFile(d+"/x\ny", nil, 0o644) }, ErrNotPackable, "control"},
		"too many": {func(d string) error {
			return errors.Join(os.Mkdir(d+"/1", 0o755), os.Mkdir(d+"/2", 0o755), os.Mkdir(d+"/3", 0o755), os.Mkdir(d+"/4", 0o755))
		}, ErrTooLarge, "more than 3 files"},
		"too big": {func(d string) error { return os.WriteFile(d+"/x", make([]byte, 1001), 0o644) }, ErrTooLarge, "1000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.make(dir); err != nil {
				t.Fatal(err)
			}
			_, _, err := Pack(t.Context(), dir, io.Discard, PackOptions{MaxFiles: 3, MaxBytes: 1000})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

type fullDisk struct{ left int }

func (f *fullDisk) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, syscall.ENOSPC
	}
	return len(p), nil
}

func TestPackReportsFullDiskAndCancel(t *testing.T) {
	src := t.TempDir()
	content := make([]byte, 8<<20)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(content)
	if err := os.WriteFile(src+"/x", content, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Pack(t.Context(), src, &fullDisk{left: 1 << 20}, PackOptions{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("full disk: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Pack(ctx, src, io.Discard, PackOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestUnpackReplacesNothing(t *testing.T) {
	p := pack1(t, makeTree(t, []entry{{path: "a", content: "new", mode: 0o644}}))
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.WriteFile("a", []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := stageAll(t.Context(), p, root); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want fs.ErrExist", err)
	}
	if got, _ := root.ReadFile("a"); string(got) != "old" {
		t.Errorf("a holds %q", got)
	}
}

func TestUnpackProgressAndCancel(t *testing.T) {
	p := pack1(t, makeTree(t, oddTree()))
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var last int64
	grows := true
	progress := func(done int64) { grows, last = grows && done > last, done }
	if err := Unpack(t.Context(), bytes.NewReader(p.file), p.a, p.idx, root, UnpackOptions{Progress: progress}); err != nil {
		t.Fatal(err)
	}
	_ = root.Chmod("shut", 0o755)
	if !grows || last != p.a.RawSize {
		t.Errorf("progress grows: %v, ends at %d of %d", grows, last, p.a.RawSize)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	empty, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	if err := stageAll(ctx, p, empty); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestReuseFrames(t *testing.T) {
	content := make([]byte, 16<<20)
	rng := rand.NewChaCha8([32]byte{2})
	_, _ = rng.Read(content)
	make1 := func(c []byte) packed {
		return pack1(t, makeTree(t, []entry{{path: "data", content: string(c), mode: 0o644}, {path: "version", content: "1", mode: 0o644}}))
	}
	old := make1(content)
	// Bytes inserted near the front shift everything after them.
	changed := slices.Concat(content[:1<<20], []byte("inserted"), content[1<<20:])
	next := make1(changed)
	var reused int64
	rebuilt := make([]byte, len(next.file))
	for _, s := range ReuseFrames(next.idx, old.idx) {
		copy(rebuilt[s.New:s.New+s.Size], old.file[s.Old:s.Old+s.Size])
		if !bytes.Equal(rebuilt[s.New:s.New+s.Size], next.file[s.New:s.New+s.Size]) {
			t.Fatalf("segment %+v is not the same in both files", s)
		}
		reused += s.Size
	}
	if share := float64(next.a.Size-reused) / float64(next.a.Size); share > 0.10 {
		t.Errorf("an insertion of 8 bytes in 16 MiB leaves %.1f%% to fetch", 100*share)
	}
	if got := ReuseFrames(old.idx, old.idx); len(got) != 1 || got[0] != (Segment{0, 0, old.a.IndexOffset}) {
		t.Errorf("against itself: %v", got)
	}
	if got := Offsets(old.idx); got[len(got)-1] != old.a.IndexOffset {
		t.Errorf("the frames end at %d, the index starts at %d", got[len(got)-1], old.a.IndexOffset)
	}
}

func TestDrift(t *testing.T) {
	src := makeTree(t, oddTree())
	idx := pack1(t, src).idx
	root, err := os.OpenRoot(src)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, deep := range []bool{false, true} {
		if got, err := Drift(t.Context(), root, idx, DriftOptions{Deep: deep}); err != nil || len(got) > 0 {
			t.Errorf("untouched tree, deep %v: %v, %v", deep, got, err)
		}
	}
	err = errors.Join(
		os.WriteFile(src+"/bin-old", []byte("SORTS between bin and bin/app"), 0o600), // same size
		os.Chmod(src+"/-dash", 0o777),
		os.Remove(src+"/empty"),
		os.WriteFile(src+"/extra", nil, 0o644),
		os.Remove(src+"/current"), os.Symlink("bin-old", src+"/current"),
		os.Truncate(src+"/bin/app", 5),
	)
	if err != nil {
		t.Fatal(err)
	}
	cheap := []string{
		`"-dash": mode 0777, want 0711`, `"bin/app": size 5, want 1300000`,
		`"current": points to "bin-old", want "bin"`, `"empty": missing`, `"extra": not part of the release`,
	}
	got, err := Drift(t.Context(), root, idx, DriftOptions{})
	if diff := cmp.Diff(cheap, got); err != nil || diff != "" {
		t.Errorf("cheap: %v\n%s", err, diff)
	}
	got, err = Drift(t.Context(), root, idx, DriftOptions{Deep: true})
	if diff := cmp.Diff(slices.Insert(slices.Clone(cheap), 1, `"bin-old": content changed`), got); err != nil || diff != "" {
		t.Errorf("deep: %v\n%s", err, diff)
	}
	if got, err := Drift(t.Context(), root, idx, DriftOptions{Limit: 2}); err != nil || len(got) != 2 {
		t.Errorf("limit 2: %v, %v", got, err)
	}
}
