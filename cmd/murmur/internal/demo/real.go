package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"

	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

// extra are the steps that deploy what none of us wrote, when the story is told to.
func (d *demo) extra() []step {
	if d.cfg.Real == "" {
		return nil
	}
	return []step{
		{"a real tree, compared byte by byte", func(s *story, ctx context.Context) (string, error) {
			return s.deployTree(ctx, "realtree", d.cfg.Real)
		}},
		{"20,000 small files, odd names", func(s *story, ctx context.Context) (string, error) {
			src := filepath.Join(d.cfg.Dir, "odd")
			if err := makeOddTree(src, 20_000); err != nil {
				return "", err
			}
			return s.deployTree(ctx, "oddtree", src)
		}},
	}
}

// treeRecipe ships a folder of this machine as it is. The values are: service, folder.
const treeRecipe = `service: %s
build:
  command: mkdir out && cp -a "$SRC"/. out/
  output: out
  env: {SRC: %q}
run: {kind: files}
strategy:
  steps:
    - hosts: 1
    - dial: 10000
  max_unavailable: 100%%
  max_unavailable_per_rack: 100%%
  min_healthy: 1ms
  across_racks: true
  across_dcs: true
`

// deployTree ships a folder to every host and compares what arrived with the source.
func (s *story) deployTree(ctx context.Context, name, src string) (string, error) {
	src, err := filepath.Abs(src)
	if err != nil {
		return "", err
	}
	r := &repo{bare: filepath.Join(s.cfg.Dir, name+".git"), clone: filepath.Join(s.cfg.Dir, name)}
	if err := r.init(ctx); err != nil {
		return "", err
	}
	if err := r.installHooks(ctx, filepath.Join(s.cfg.Dir, "builder"), s.stored); err != nil {
		return "", err
	}
	recipe := fmt.Sprintf(treeRecipe, name, src)
	if err := os.WriteFile(filepath.Join(r.clone, "murmur.yaml"), []byte(recipe), 0o644); err != nil {
		return "", err
	}
	commit, err := r.commit(ctx, "Ship "+src)
	if err != nil {
		return "", err
	}
	if _, err := r.push(ctx); err != nil {
		return "", err
	}
	rel, err := s.published(ctx, commit)
	if err != nil {
		return "", err
	}
	return s.rollAndCompare(ctx, rel, src)
}

func (s *story) rollAndCompare(ctx context.Context, rel *pb.Release, src string) (string, error) {
	resp, err := s.client.Rollouts.StartRollout(ctx, connect.NewRequest(&pb.StartRolloutRequest{Service: rel.Service, Release: rel.Id, Reason: "the story"}))
	if err != nil {
		return "", err
	}
	if _, err := s.followOf(ctx, rel.Service, resp.Msg.Rollout.Id, inPhase("complete")); err != nil {
		return "", err
	}
	files, bytes, err := 0, int64(0), error(nil)
	for _, h := range s.hosts.all {
		files, bytes, err = compareTrees(src, filepath.Join(h.root, rel.Service, "current"))
		if err != nil {
			return "", fmt.Errorf("%s: %w", h.name, err)
		}
	}
	return fmt.Sprintf("%d entries, %.1f MB, equal on %d hosts; artifact %.1f MB", files, float64(bytes)/1e6, len(s.hosts.all), float64(rel.ArtifactSize)/1e6), nil
}

// compareTrees walks the source and expects the same entry, mode, target and bytes in the copy, and as many.
func compareTrees(src, copied string) (entries int, size int64, err error) {
	copied, err = filepath.EvalSymlinks(copied)
	if err != nil {
		return 0, 0, err
	}
	err = filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil || rel == "." {
			return err
		}
		entries++
		n, err := compareEntry(path, filepath.Join(copied, rel))
		size += n
		return err
	})
	if err != nil {
		return entries, size, err
	}
	there := 0
	err = filepath.WalkDir(copied, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != copied {
			there++
		}
		return err
	})
	if err == nil && there != entries {
		err = fmt.Errorf("%d entries arrived of %d", there, entries)
	}
	return entries, size, err
}

func compareEntry(a, b string) (int64, error) {
	x, err := os.Lstat(a)
	if err != nil {
		return 0, err
	}
	y, err := os.Lstat(b)
	if err != nil {
		return 0, err
	}
	switch {
	case x.Mode().Type() != y.Mode().Type():
		return 0, fmt.Errorf("%s is a %v, it was a %v", b, y.Mode().Type(), x.Mode().Type())
	case x.Mode()&fs.ModeSymlink != 0:
		from, err := os.Readlink(a)
		if err != nil {
			return 0, err
		}
		to, err := os.Readlink(b)
		if err == nil && from != to {
			err = fmt.Errorf("%s points to %q, it pointed to %q", b, to, from)
		}
		return 0, err
	case x.Mode().Perm() != y.Mode().Perm():
		return 0, fmt.Errorf("%s has mode %v, it had %v", b, y.Mode().Perm(), x.Mode().Perm())
	case x.IsDir():
		return 0, nil
	}
	from, err := digest(a)
	if err != nil {
		return 0, err
	}
	to, err := digest(b)
	if err == nil && !bytes.Equal(from, to) {
		err = fmt.Errorf("%s differs from %s", b, a)
	}
	return x.Size(), err
}

func digest(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// oddNames are what people do to file names.
var oddNames = []string{"with space", "-leading-dash", "ünï-cödé", "quote'\"s", "dollar$HOME", "semi;colon", "back\\slash", "percent%20", "...", strings.Repeat("long", 60)}

// makeOddTree makes n small files with symlinks, odd names and odd modes among them.
func makeOddTree(dir string, n int) error {
	modes := []os.FileMode{0o644, 0o755, 0o600, 0o444, 0o700, 0o555}
	for i := range n {
		sub := filepath.Join(dir, fmt.Sprintf("d%03d", i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		name := filepath.Join(sub, fmt.Sprintf("%s-%d", oddNames[i%len(oddNames)], i))
		if i%50 == 49 {
			if err := os.Symlink(fmt.Sprintf("%s-%d", oddNames[(i-1)%len(oddNames)], i-1), name); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(name, fmt.Appendf(nil, "file %d\n%s", i, strings.Repeat("x", i%700)), 0o600); err != nil {
			return err
		}
		if err := os.Chmod(name, modes[i%len(modes)]); err != nil {
			return err
		}
	}
	return nil
}
