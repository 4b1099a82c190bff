package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const bigTree = 100 << 20

// makeBigTree copies 100 MiB of the Go distribution: binaries first, then sources.
func makeBigTree(dir string) error {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	goroot, left := strings.TrimSpace(string(out)), int64(bigTree)
	errDone := errors.New("enough")
	for _, part := range []string{"bin", "pkg", "src"} {
		err := filepath.WalkDir(filepath.Join(goroot, part), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !d.Type().IsRegular() {
				return err
			}
			rel, err := filepath.Rel(goroot, name)
			if err != nil {
				return err
			}
			n, err := copyFile(name, filepath.Join(dir, rel), left)
			if left -= n; err == nil && left <= 0 {
				return errDone
			}
			return err
		})
		if errors.Is(err, errDone) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("GOROOT %s holds less than %d bytes", goroot, int64(bigTree))
}

// copyFile copies at most limit bytes of a file, with its mode.
func copyFile(from, to string, limit int64) (int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return 0, err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, io.LimitReader(in, limit))
	return n, errors.Join(err, out.Close())
}

// makeManyFiles makes 20,000 small entries, the same on every run: 200 folders of 100, of which two are symlinks
// and some have names and modes that trip careless tools.
func makeManyFiles(dir string) error {
	rng := rand.New(rand.NewPCG(1, 2))
	odd := []string{"with space", "-dash", "quote'\"", "ünïcode-名", "$HOME;true", "back\\slash", strings.Repeat("long", 40)}
	modes := []fs.FileMode{0o644, 0o755, 0o600, 0o444, 0o640, 0o711}
	for d := range 200 {
		sub := filepath.Join(dir, fmt.Sprintf("lib%02d", d/20), fmt.Sprintf("pkg%03d", d))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		for i := range 100 {
			name := filepath.Join(sub, fmt.Sprintf("file-%03d.txt", i))
			switch {
			case i < 2:
				if err := os.Symlink(fmt.Sprintf("file-%03d.txt", i+50), name); err != nil {
					return err
				}
				continue
			case i < 2+len(odd):
				name = filepath.Join(sub, odd[i-2])
			}
			if err := writeText(name, rng, modes[i%len(modes)]); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeText writes 0 to 8 KiB of words.
func writeText(name string, rng *rand.Rand, mode fs.FileMode) error {
	var b strings.Builder
	for size := rng.IntN(8 << 10); b.Len() < size; {
		fmt.Fprintf(&b, "%x ", rng.Uint32()>>(8*rng.IntN(4)))
	}
	return errors.Join(os.WriteFile(name, []byte(b.String()), 0o600), os.Chmod(name, mode))
}
