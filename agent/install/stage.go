package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/murmuration/murmuration/internal/durable"
	"github.com/murmuration/murmuration/release"
)

// maxStored bounds a stored manifest file when it is read back.
const maxStored = 64 << 20

// Stored is what is kept of a release beside its files. It was checked before it was stored.
type Stored struct {
	// Manifest and Envelope are the exact bytes that were signed, and the signature.
	Manifest []byte `json:"manifest"`
	Envelope []byte `json:"envelope"`
	// Info is the bencoded torrent dictionary, by which the artifact is seeded again after a restart.
	Info []byte `json:"info,omitempty"`
	// KeyID is who signed.
	KeyID string `json:"key_id,omitempty"`
}

// Stage unpacks a release beside the others: fill writes the files into an empty folder, and only when all of
// them and the manifest are on disk does the release appear under its id. A release that is there already is
// left as it is.
func (d *Dir) Stage(id string, s Stored, fill func(dst *os.Root) error) error {
	if err := release.CheckID(id); err != nil {
		return err
	}
	if d.Has(id) {
		return nil
	}
	tmp := path.Join(releasesDir, tmpPrefix+id)
	if err := d.unpack(tmp, fill); err != nil {
		return errors.Join(err, d.root.RemoveAll(tmp))
	}
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("store the manifest of %s: %w", id, err)
	}
	d.step("before manifest")
	if err := durable.WriteFile(d.root, path.Join(manifestsDir, id), b, 0o600); err != nil {
		return fmt.Errorf("store the manifest of %s: %w", id, err)
	}
	d.step("after manifest")
	if err := durable.Rename(d.root, tmp, path.Join(releasesDir, id)); err != nil {
		return fmt.Errorf("put release %s in place: %w", id, err)
	}
	d.step("after unpack")
	return nil
}

func (d *Dir) unpack(tmp string, fill func(*os.Root) error) error {
	if err := d.root.RemoveAll(tmp); err != nil {
		return fmt.Errorf("clear %s: %w", tmp, err)
	}
	d.step("before unpack")
	if err := d.root.Mkdir(tmp, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", tmp, err)
	}
	dst, err := d.root.OpenRoot(tmp)
	if err != nil {
		return fmt.Errorf("open %s: %w", tmp, err)
	}
	defer dst.Close()
	if err := fill(dst); err != nil {
		return err
	}
	d.step("before sync")
	if err := durable.SyncTree(dst); err != nil {
		return fmt.Errorf("bring %s to disk: %w", tmp, err)
	}
	return nil
}

// Load returns what is stored of a release, and its manifest decoded.
func (d *Dir) Load(id string) (Stored, release.Manifest, error) {
	var s Stored
	if err := release.CheckID(id); err != nil {
		return s, release.Manifest{}, err
	}
	name := path.Join(manifestsDir, id)
	info, err := d.root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return s, release.Manifest{}, fmt.Errorf("manifest of %s: %w", id, ErrNoRelease)
	}
	if err != nil {
		return s, release.Manifest{}, fmt.Errorf("manifest of %s: %w", id, err)
	}
	if info.Size() > maxStored {
		return s, release.Manifest{}, fmt.Errorf("manifest of %s: %d bytes are too many", id, info.Size())
	}
	b, err := d.root.ReadFile(name)
	if err != nil {
		return s, release.Manifest{}, fmt.Errorf("manifest of %s: %w", id, err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, release.Manifest{}, fmt.Errorf("manifest of %s is damaged: %w", id, err)
	}
	m, err := release.ParseManifest(s.Manifest)
	if err != nil {
		return s, m, fmt.Errorf("manifest of %s is damaged: %w", id, err)
	}
	if m.ID != id || m.Service != d.service {
		return s, m, fmt.Errorf("manifest of %s is of release %s of %s", id, m.ID, m.Service)
	}
	return s, m, nil
}

// Remove removes a release. Its folder first gets a name that says so, so it is never seen half removed.
func (d *Dir) Remove(id string) error {
	if err := release.CheckID(id); err != nil {
		return err
	}
	from, to := path.Join(releasesDir, id), path.Join(releasesDir, oldPrefix+id)
	d.step("before remove")
	if err := durable.Rename(d.root, from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove release %s: %w", id, err)
	}
	d.step("after remove")
	if err := d.root.RemoveAll(to); err != nil {
		return fmt.Errorf("remove release %s: %w", id, err)
	}
	if err := durable.Remove(d.root, path.Join(manifestsDir, id)); err != nil {
		return fmt.Errorf("remove release %s: %w", id, err)
	}
	return nil
}
