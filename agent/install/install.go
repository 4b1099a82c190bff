// Package install keeps the folders of one service on a host and the journal of what is being changed there.
//
//	<root>/<service>/releases/<id>/    one unpacked release; it exists only when it is complete
//	<root>/<service>/releases/.tmp-*   being unpacked; removed at the next start
//	<root>/<service>/releases/.old-*   being removed; removed at the next start
//	<root>/<service>/manifests/<id>    the signed manifest, its envelope and the torrent, as they came
//	<root>/<service>/current           symlink to releases/<id>: what runs
//	<root>/<service>/previous          symlink to releases/<id>: what ran before
//	<root>/<service>/state.json        the [Journal]
//
// Every change is one rename(2) after an fsync, and the journal says beforehand which changes are under way. So
// a process killed between any two lines leaves a folder from which [Recover] reads exactly one of two answers:
// the old release or the new one. All paths go through one os.Root and none can leave it.
package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/murmuration/murmuration/internal/durable"
	"github.com/murmuration/murmuration/release"
)

const (
	releasesDir  = "releases"
	manifestsDir = "manifests"
	currentLink  = "current"
	previousLink = "previous"
	tmpPrefix    = ".tmp-"
	oldPrefix    = ".old-"
)

// ErrNoRelease is wrapped when a release is not on the host.
var ErrNoRelease = errors.New("the release is not on this host")

// Dir is the folder of one service. One goroutine at a time may change it; reading is safe meanwhile.
type Dir struct {
	root    *os.Root
	service string
	step    func(point string)
}

// Open opens the folder of a service below root, making it if needed, and clears what a crash left half done.
// Step is called before and after every durable change with a name for it; nil does nothing. It is how tests
// kill the process at every line. Root stays the caller's.
func Open(root *os.Root, service string, step func(point string)) (*Dir, error) {
	if err := release.CheckService(service); err != nil {
		return nil, err
	}
	if err := root.MkdirAll(service, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of service %s: %w", service, err)
	}
	own, err := root.OpenRoot(service)
	if err != nil {
		return nil, fmt.Errorf("open the folder of service %s: %w", service, err)
	}
	if step == nil {
		step = func(string) {}
	}
	d := &Dir{root: own, service: service, step: step}
	if err := d.prepare(); err != nil {
		own.Close()
		return nil, err
	}
	return d, nil
}

// View reads a service's folder without changing anything in it, not even what a crash left. Root stays the
// caller's; nothing that changes the folder may be called.
func View(root *os.Root, service string) *Dir {
	return &Dir{root: root, service: service, step: func(string) {}}
}

func (d *Dir) prepare() error {
	for _, name := range []string{releasesDir, manifestsDir} {
		if err := d.root.MkdirAll(name, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", name, err)
		}
	}
	for _, name := range []string{".", manifestsDir} {
		if err := durable.RemoveTemp(d.root, name); err != nil {
			return fmt.Errorf("clear what a crash left: %w", err)
		}
	}
	names, err := d.list(releasesDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, ".") {
			if err := d.root.RemoveAll(path.Join(releasesDir, name)); err != nil {
				return fmt.Errorf("clear what a crash left: %w", err)
			}
		}
	}
	return nil
}

// Close closes the folder.
func (d *Dir) Close() error { return d.root.Close() }

// Root is the service's folder, for run.json and logs. It is closed by [Dir.Close].
func (d *Dir) Root() *os.Root { return d.root }

// Service is whose folder it is.
func (d *Dir) Service() string { return d.service }

// Path is the absolute path of a release's folder.
func (d *Dir) Path(id string) string { return path.Join(d.root.Name(), releasesDir, id) }

// OpenRelease opens a release's folder; the caller closes it.
func (d *Dir) OpenRelease(id string) (*os.Root, error) {
	if !d.Has(id) {
		return nil, fmt.Errorf("release %s of %s: %w", id, d.service, ErrNoRelease)
	}
	return d.root.OpenRoot(path.Join(releasesDir, id))
}

// Has reports whether a release is unpacked and complete, with the manifest it is run by.
func (d *Dir) Has(id string) bool {
	if release.CheckID(id) != nil {
		return false
	}
	info, err := d.root.Lstat(path.Join(releasesDir, id))
	if err != nil || !info.IsDir() {
		return false
	}
	_, err = d.root.Lstat(path.Join(manifestsDir, id))
	return err == nil
}

// List returns the ids of all complete releases, oldest first.
func (d *Dir) List() ([]string, error) {
	names, err := d.list(releasesDir)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !d.Has(name) })
	slices.Sort(names)
	return names, nil
}

func (d *Dir) list(dir string) ([]string, error) {
	f, err := d.root.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("list %s of %s: %w", dir, d.service, err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s of %s: %w", dir, d.service, err)
	}
	return names, nil
}

// Links returns which releases the symlinks name, "" for none. A link that names no release of this service
// counts as none.
func (d *Dir) Links() (current, previous string) {
	return d.link(currentLink), d.link(previousLink)
}

func (d *Dir) link(name string) string {
	target, err := d.root.Readlink(name)
	if err != nil {
		return ""
	}
	id, ok := strings.CutPrefix(target, releasesDir+"/")
	if !ok || release.CheckID(id) != nil {
		return ""
	}
	return id
}

// SetLinks makes the symlinks name these releases; "" removes one. Previous is set first, so that whenever
// current has moved, previous already says where to go back to.
func (d *Dir) SetLinks(current, previous string) error {
	if err := d.setLink(previousLink, previous); err != nil {
		return err
	}
	return d.setLink(currentLink, current)
}

func (d *Dir) setLink(name, id string) error {
	if d.link(name) == id {
		if id != "" {
			return nil
		}
		if _, err := d.root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	d.step("before link " + name)
	var err error
	if id == "" {
		err = durable.Remove(d.root, name)
	} else {
		err = durable.ReplaceSymlink(d.root, name, path.Join(releasesDir, id))
	}
	if err != nil {
		return fmt.Errorf("point %s of %s to %q: %w", name, d.service, id, err)
	}
	d.step("after link " + name)
	return nil
}
