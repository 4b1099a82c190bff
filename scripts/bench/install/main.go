// Command install measures what staging a release costs a host, beside stock tar on the same artifact, and how long
// the host then takes to change from one release to another and back.
//
//	go run ./scripts/bench/install [-rounds 7] [-bin bin] [-dir DIR] [-out out/bench/install.json]
//
// Two trees are packed: tree-100mb (100 MiB of the Go distribution) and files-20000 (20,000 small files with
// symlinks, odd names and odd modes). Then, in turns on the same file system with a warm page cache:
//
//   - tar: "tar -x --zstd", which checks nothing and syncs nothing
//   - tar-sync: the same, then syncfs(2)
//   - murmur: read the index, verify and unpack every chunk, syncfs(2): all that staging is
//   - murmur-nosync: the same without the sync
//
// Then the real binaries: two releases of each tree (of kind "files", without health checks, whose pace the recipe
// sets) are rolled out to one agent, which goes back and forth in turns. Rollback_s is one local rollback as
// murmur-agent rollback asks for it, from the call on the agent's socket to the answer that the release is back.
// Activate_s is one activation in obedience to the control plane, from the end of the local hold to the agent's
// status that the new release runs, looked at every millisecond. Both hold everything the agent does, journal and
// sync included, and no network: what a fleet adds is measured elsewhere. Values are medians and maxima over rounds.
//
// It prints a table for people and writes rows {"scenario","subject","metric","value","unit"} for machines; the
// first row is the machine and the command. Stage_over_tar is the median over rounds of murmur / tar.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/murmuration/murmuration/internal/artifact"
	"github.com/murmuration/murmuration/internal/durable"
	"github.com/murmuration/murmuration/release"
	"github.com/murmuration/murmuration/scripts/bench/plane"
	"github.com/murmuration/murmuration/scripts/bench/rows"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	rounds := flag.Int("rounds", 7, "rounds of each subject")
	bin := flag.String("bin", "bin", "folder with murmur and murmur-agent")
	dir := flag.String("dir", "", "where to work (default: a temporary folder)")
	out := flag.String("out", "out/bench/install.json", "where to write the rows")
	flag.Parse()
	if err := run(ctx, *rounds, *bin, *dir, *out); err != nil {
		slog.New(slog.NewTextHandler(os.Stderr, nil)).Error("bench install", "err", err)
		os.Exit(1)
	}
}

// subjects in the order each round runs them.
var subjects = []string{"tar", "murmur", "tar-sync", "murmur-nosync"}

// trees are the scenarios.
var trees = []struct {
	name string
	make func(dir string) error
}{{"tree-100mb", makeBigTree}, {"files-20000", makeManyFiles}}

func run(ctx context.Context, rounds int, bin, dir, out string) error {
	for _, tool := range []string{"tar", "zstd", "git"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w (Debian: apt-get install %s)", err, tool)
		}
	}
	work, err := os.MkdirTemp(dir, "bench-install-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	all := []rows.Row{rows.First("go run ./scripts/bench/install", rounds)}
	for _, tree := range trees {
		r, err := scenario(ctx, tree.name, tree.make, filepath.Join(work, tree.name), rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", tree.name, err)
		}
		all = append(all, r...)
	}
	r, err := activations(ctx, bin, work, rounds)
	if err != nil {
		return err
	}
	return rows.Report(os.Stdout, append(all, r...), out)
}

// activations runs a control plane and an agent beside the trees that the scenarios made.
func activations(ctx context.Context, bin, work string, rounds int) (all []rows.Row, err error) {
	dir := filepath.Join(work, "plane")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	p, err := plane.Start(ctx, bin, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	host, err := p.Join(ctx, "host")
	if err != nil {
		return nil, err
	}
	for _, tree := range trees {
		src, err := filepath.Abs(filepath.Join(work, tree.name, "src"))
		if err != nil {
			return nil, err
		}
		r, err := activation(ctx, p, host, tree.name, src, rounds)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tree.name, err)
		}
		all = append(all, r...)
	}
	return all, nil
}

// scenario makes and packs one tree and measures all subjects in turns.
func scenario(ctx context.Context, name string, makeTree func(string) error, work string, rounds int) ([]rows.Row, error) {
	src, file := filepath.Join(work, "src"), filepath.Join(work, "artifact.tar.zst")
	if err := errors.Join(os.MkdirAll(src, 0o755), makeTree(src)); err != nil {
		return nil, err
	}
	a, err := pack(ctx, src, file)
	if err != nil {
		return nil, err
	}
	took := map[string][]float64{}
	for round := range rounds + 1 {
		for _, subject := range subjects {
			s, err := once(ctx, subject, file, a, filepath.Join(work, fmt.Sprintf("dst-%d-%s", round, subject)))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", subject, err)
			}
			if round > 0 { // the first round warms the page cache
				took[subject] = append(took[subject], s)
			}
		}
	}
	return rowsOf(name, a, took), nil
}

func pack(ctx context.Context, src, file string) (release.Artifact, error) {
	f, err := os.Create(file)
	if err != nil {
		return release.Artifact{}, err
	}
	a, _, err := artifact.Pack(ctx, src, f, artifact.PackOptions{})
	return a, errors.Join(err, f.Close())
}

// once runs a subject into a new folder and returns the seconds it took, after the disk has settled. Nothing is
// removed between runs: ext4 makes files far more slowly for some seconds after many were removed.
func once(ctx context.Context, subject, file string, a release.Artifact, dst string) (float64, error) {
	if err := os.Mkdir(dst, 0o755); err != nil {
		return 0, err
	}
	root, err := os.OpenRoot(dst)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	if err := durable.SyncTree(root); err != nil {
		return 0, err
	}
	runtime.GC()
	start := time.Now()
	switch subject {
	case "tar", "tar-sync":
		cmd := exec.CommandContext(ctx, "tar", "-x", "--zstd", "-f", file, "-C", dst)
		cmd.Stderr = os.Stderr
		err = cmd.Run()
	default:
		err = stage(ctx, file, a, root)
	}
	if err == nil && (subject == "murmur" || subject == "tar-sync") {
		err = durable.SyncTree(root)
	}
	return time.Since(start).Seconds(), err
}

// stage is what an agent does once the bytes are on its disk.
func stage(ctx context.Context, file string, a release.Artifact, dst *os.Root) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	idx, err := artifact.ReadIndex(f, a)
	if err != nil {
		return err
	}
	return artifact.Unpack(ctx, f, a, idx, dst, artifact.UnpackOptions{})
}

// rowsOf turns times into rows; ratios are medians of the ratios within each round.
func rowsOf(name string, a release.Artifact, took map[string][]float64) []rows.Row {
	ratio := func(of, over string) float64 {
		var all []float64
		for i := range took[of] {
			all = append(all, took[of][i]/took[over][i])
		}
		return median(all)
	}
	out := []rows.Row{
		rows.New(name, "murmur", "stage_over_tar", ratio("murmur", "tar"), "x"),
		rows.New(name, "murmur", "stage_over_tar_sync", ratio("murmur", "tar-sync"), "x"),
		rows.New(name, "murmur-nosync", "stage_over_tar", ratio("murmur-nosync", "tar"), "x"),
	}
	for _, s := range subjects {
		metric := "stage_s"
		if s == "tar" || s == "tar-sync" {
			metric = "tar_s"
		}
		out = append(out, rows.New(name, s, metric, median(took[s]), "s"))
	}
	return append(out,
		rows.New(name, "murmur", "raw_mib", float64(a.RawSize)/(1<<20), "MiB"),
		rows.New(name, "murmur", "artifact_mib", float64(a.Size)/(1<<20), "MiB"),
		rows.New(name, "murmur", "files", float64(a.Files), "files"))
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
