package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// Bounds of a manifest and of what it may claim.
const (
	// MaxManifest is the largest encoded manifest, in bytes.
	MaxManifest = 1 << 20
	// MaxChanges is how many commits a change record holds; a builder drops older ones.
	MaxChanges = 1000
	// MaxFiles is how many entries, MaxChunks how many chunks an artifact may hold.
	MaxFiles  = 2 << 20
	MaxChunks = 4 << 20
	// MaxArtifact is the largest artifact and the largest tar stream, in bytes.
	MaxArtifact = 1 << 40
)

// The errors of reading a manifest.
var (
	// ErrManifest is wrapped by every complaint about a manifest's encoding.
	ErrManifest = errors.New("malformed manifest")
	// ErrNewerManifest says that the manifest was made by a newer version of this program.
	ErrNewerManifest = errors.New("manifest of a newer version: upgrade this program")
)

// Encode validates m and renders its one canonical form: compact JSON, fields in the order of the struct, map
// keys sorted, times in UTC. Its digest is what provenance is signed over.
func (m Manifest) Encode() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return m.encode()
}

func (m Manifest) encode() ([]byte, error) {
	m.CreatedAt = m.CreatedAt.UTC()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	b := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if len(b) > MaxManifest {
		return nil, fmt.Errorf("encode manifest: %d bytes, the limit is %d: shorten the change record or the recipe", len(b), MaxManifest)
	}
	return b, nil
}

// ParseManifest reads and validates a manifest. It is strict: anything but the canonical encoding (unknown or
// repeated fields, other spacing or order, trailing data) is refused with [ErrManifest], a manifest made by a
// newer version with [ErrNewerManifest]. Fields added to the format later must therefore be omitempty.
func ParseManifest(b []byte) (Manifest, error) {
	if len(b) > MaxManifest {
		return Manifest{}, fmt.Errorf("%w: %d bytes, the limit is %d", ErrManifest, len(b), MaxManifest)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if head.Version > ManifestVersion {
		return Manifest{}, fmt.Errorf("version %d: %w", head.Version, ErrNewerManifest)
	}
	var m Manifest
	if err := strictJSON(b, &m); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if err := m.Validate(); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	again, err := m.encode()
	if err != nil || !bytes.Equal(again, b) {
		return Manifest{}, fmt.Errorf("%w: not in canonical form", ErrManifest)
	}
	return m, nil
}

// strictJSON decodes exactly one JSON value with known fields only.
func strictJSON(b []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("data after the value")
	}
	return nil
}

// Validate reports everything wrong with m as joined [FieldError] values.
func (m Manifest) Validate() error {
	f := newFields()
	if m.Version < 1 || m.Version > ManifestVersion {
		f.at("version").fail("%d; this program knows 1 to %d", m.Version, ManifestVersion)
	}
	f.at("service").check(CheckService(m.Service))
	f.at("id").check(CheckID(m.ID))
	f.at("commit").check(checkCommit(m.Commit))
	for _, t := range []struct{ name, text string }{
		{"ref", m.Ref}, {"repo", m.Repo}, {"author", m.Author}, {"subject", m.Subject},
	} {
		f.at(t.name).check(checkLine(t.text, 4096))
	}
	if y := m.CreatedAt.Year(); y < 2000 || y > 9999 {
		f.at("created_at").fail("year %d", y)
	}
	m.Artifact.validate(f.at("artifact"))
	m.Recipe.validate(f.at("recipe"))
	if m.Recipe.Service != m.Service {
		f.at("recipe.service").fail("%q, but the manifest is for %q", m.Recipe.Service, m.Service)
	}
	if len(m.Changes) > MaxChanges {
		f.at("changes").fail("%d commits, the limit is %d", len(m.Changes), MaxChanges)
	}
	return f.err()
}

func (a Artifact) validate(f fields) {
	for _, d := range []struct {
		name   string
		digest Digest
	}{{"digest", a.Digest}, {"raw_digest", a.RawDigest}, {"index_digest", a.IndexDigest}} {
		_, err := d.digest.Sum()
		f.at(d.name).check(err)
	}
	for _, n := range []struct {
		name            string
		n, least, limit int64
	}{
		{"size", a.Size, 1, MaxArtifact}, {"raw_size", a.RawSize, 1, MaxArtifact},
		{"files", int64(a.Files), 0, MaxFiles}, {"chunks", int64(a.Chunks), 1, MaxChunks},
		{"index_offset", a.IndexOffset, 1, MaxArtifact}, {"index_size", a.IndexSize, 9, math.MaxUint32},
	} {
		if n.n < n.least || n.n > n.limit {
			f.at(n.name).fail("%d is outside %d..%d", n.n, n.least, n.limit)
		}
	}
	if a.IndexOffset+a.IndexSize != a.Size {
		f.at("index_size").fail("the index ends at %d, the artifact at %d", a.IndexOffset+a.IndexSize, a.Size)
	}
}

// Validate reports everything wrong with what a says about itself, as joined [FieldError] values.
func (a Artifact) Validate() error {
	f := newFields()
	a.validate(f)
	return f.err()
}

// checkCommit accepts a full git object name, SHA-1 or SHA-256.
func checkCommit(commit string) error {
	if (len(commit) != 40 && len(commit) != 64) || strings.Trim(commit, "0123456789abcdef") != "" {
		return fmt.Errorf("%.80q is not a full git commit", commit)
	}
	return nil
}

// checkLine accepts one line of text of at most limit bytes.
func checkLine(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%d bytes, the limit is %d", len(s), limit)
	}
	if strings.ContainsAny(s, "\x00\n\r") {
		return errors.New("must be one line")
	}
	return nil
}
