package depot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/murmuration/murmuration/internal/artifact"
)

func TestImport(t *testing.T) {
	f := newFixture(t, nil)
	m, file := build(t, "hello")
	bad := slices.Clone(file)
	bad[0] ^= 1
	if err := f.Import(t.Context(), m.Artifact, bytes.NewReader(bad)); !errors.Is(err, artifact.ErrCorrupt) || f.Has(m.Artifact.Digest) {
		t.Errorf("bad bytes: %v", err)
	}
	if err := f.Import(t.Context(), m.Artifact, bytes.NewReader(file)); err != nil || !f.Has(m.Artifact.Digest) {
		t.Errorf("import: %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(f.dir, artifactDir))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
