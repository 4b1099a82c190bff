package swarm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"
)

func TestMakeInfoAgreesWithTheEngine(t *testing.T) {
	src, content := randomFile(t, 1<<20+77, 30)
	var want metainfo.Info
	want.PieceLength = PieceLength(int64(len(content)))
	if err := want.BuildFromFilePath(src.Path); err != nil {
		t.Fatal(err)
	}
	want.Private = new(true)
	enc, err := bencode.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(enc) != string(src.Info) {
		t.Errorf("own dictionary differs from the engine's:\n%.120q\n%.120q", src.Info, enc)
	}
	m, err := ParseInfo(src.Info)
	if want := (Meta{Length: 1<<20 + 77, PieceLength: 64 << 10, Pieces: 17}); err != nil || m != want {
		t.Errorf("parsed %+v, %v; want %+v", m, err, want)
	}
}

func TestPieceLength(t *testing.T) {
	for length, want := range map[int64]int64{
		1: 64 << 10, 64 << 20: 64 << 10, 128 << 20: 64 << 10, 128<<20 + 1: 128 << 10, 1 << 30: 512 << 10, 10 << 30: 4 << 20, 1 << 40: 4 << 20,
	} {
		if got := PieceLength(length); got != want {
			t.Errorf("PieceLength(%d) = %d, want %d", length, got, want)
		}
	}
}

func TestMakeInfoRefuses(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	src, _ := randomFile(t, 1000, 31)
	for _, c := range []struct{ path, name string }{
		{empty, "a"}, {dir, "a"}, {filepath.Join(dir, "none"), "a"},
		{src.Path, ""}, {src.Path, ".."}, {src.Path, "a/b"}, {src.Path, strings.Repeat("n", 256)},
	} {
		if _, _, err := MakeInfo(t.Context(), c.path, c.name); err == nil {
			t.Errorf("MakeInfo(%s, %q) succeeded", c.path, c.name)
		}
	}
}

func FuzzParseInfo(f *testing.F) {
	src, _ := randomFile(f, 200_000, 32)
	f.Add(src.Info)
	for _, s := range []string{
		"", "de", "d6:lengthi-1e4:name1:a12:piece lengthi16384e6:pieces0:e", "d5:filesld6:lengthi1e4:pathl1:aeee4:name1:ae",
		"d6:lengthi9223372036854775807e4:name1:a12:piece lengthi16777216e6:pieces20:aaaaaaaaaaaaaaaaaaaae",
		"d12:piece lengthi0e6:pieces0:e", strings.Repeat("l", 100) + strings.Repeat("e", 100),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseInfo(b)
		if err != nil {
			if !errors.Is(err, ErrBadInfo) {
				t.Fatalf("error %v is not ErrBadInfo", err)
			}
			return
		}
		if m.Pieces < 1 || m.Pieces > maxPieces || m.size(m.Pieces-1) < 1 || m.size(m.Pieces-1) > m.PieceLength {
			t.Fatalf("accepted %+v", m)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	m := newMeta(1000_000, 64<<10)
	bits := newBitmap(m.Pieces)
	bits.set(3)
	good := record{complete: true, modTime: 12345, meta: m, path: "/srv/a", bits: bits}
	f.Add(good.encode())
	f.Add([]byte(recordMagic))
	got, err := decodeRecord(good.encode(), m)
	if err != nil || got.path != good.path || !got.bits.has(3) || got.bits.has(4) || !got.complete || got.modTime != 12345 {
		f.Fatalf("round trip: %+v, %v", got, err)
	}
	if _, err := decodeRecord(good.encode(), newMeta(1000_001, 64<<10)); err == nil {
		f.Fatal("record of another torrent accepted")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b, m)
		if err == nil && string(r.encode()) != string(b) && b[9] <= 1 {
			t.Fatalf("%x decodes to something else", b)
		}
	})
}
