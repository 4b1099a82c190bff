package agent

import (
	"context"
	"crypto/sha1" // BitTorrent's transport hash (BEP 3), trusted for nothing
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/murmuration/murmuration/agent/install"
	"github.com/murmuration/murmuration/internal/artifact"
	"github.com/murmuration/murmuration/internal/durable"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/release"
)

const (
	firstRetry = 5 * time.Second
	lastRetry  = time.Minute
)

// stage is one release on its way to this host.
type stage struct {
	service  string
	ref      *murmurv1.ReleaseRef
	running  bool
	cancel   context.CancelFunc
	failures int
	notYet   bool // waiting for its next try
	err      error
}

// ErrDisk is wrapped when a release does not fit on the disk; ErrRelease when it is not what it says it is, or not
// signed by whom it should be.
var (
	ErrDisk    = errors.New("not enough disk space")
	ErrRelease = errors.New("release refused")
)

// stageAll starts what is asked for and not here, as many at once as the configuration allows.
func (l *loop) stageAll(h *handle, t *murmurv1.ServiceTarget) {
	wanted := map[string]bool{}
	for _, ref := range t.GetStage() {
		wanted[ref.GetId()] = true
		s := l.stages[ref.GetId()]
		if s == nil {
			s = &stage{service: h.unit.name}
			l.stages[ref.GetId()] = s
		}
		s.ref = ref
		if !h.ready[ref.GetId()] && !s.running && !s.notYet && l.staging() < l.a.cfg.StageAtOnce && l.a.cfg.Swarm != nil {
			l.startStage(h, s)
		}
	}
	for id, s := range l.stages {
		if s.service != h.unit.name || wanted[id] {
			continue
		}
		if s.running {
			s.cancel() // nobody wants it any more
		} else {
			delete(l.stages, id)
		}
	}
}

func (l *loop) staging() int {
	n := 0
	for _, s := range l.stages {
		if s.running {
			n++
		}
	}
	return n
}

func (l *loop) startStage(h *handle, s *stage) {
	ctx, cancel := context.WithCancel(l.ctx)
	s.running, s.cancel = true, cancel
	ref, id := s.ref, s.ref.GetId()
	l.wg.Go(func() {
		defer cancel()
		err := l.a.stageRelease(ctx, h.unit, ref, l.a.progress(id))
		l.a.do(l.ctx, func(l *loop) { l.staged(h, s, id, err) })
	})
}

// staged takes the end of a try.
func (l *loop) staged(h *handle, s *stage, id string, err error) {
	s.running, s.err = false, err
	if l.staging() == 0 && l.a.cfg.Quiet != nil {
		l.wg.Go(l.a.cfg.Quiet)
	}
	if err == nil {
		s.failures = 0
		h.ready[id] = true
		h.unit.poke() // to report it with the releases that are here
		l.say(s.service)
		return
	}
	if errors.Is(err, context.Canceled) {
		s.err = nil
		return
	}
	pause := min(firstRetry<<min(s.failures, 10), lastRetry)
	s.failures++
	s.notYet = true
	l.a.log.Warn("release not staged", "service", s.service, "release", id, "again_in", pause, "err", err)
	time.AfterFunc(pause, func() { l.a.do(l.ctx, func(*loop) { s.notYet = false }) })
	l.say(s.service)
}

// retryStages tries everything that failed again at once: something it may have failed for has changed.
func (l *loop) retryStages() {
	for _, s := range l.stages {
		s.notYet = false
	}
}

func (l *loop) retryStagesOf(t *murmurv1.ServiceTarget) {
	for _, ref := range t.GetStage() {
		if s := l.stages[ref.GetId()]; s != nil {
			s.notYet = false
		}
	}
}

// progress returns the function that reports the bytes of a fetch, at most once a second and at the end.
func (a *Agent) progress(id string) func(phase string, p Progress) {
	var last time.Time
	lastPhase := ""
	return func(phase string, p Progress) {
		now := time.Now()
		if phase == lastPhase && now.Sub(last) < time.Second && p.Done < p.Total {
			return
		}
		last, lastPhase = now, phase
		a.out.put("stage/"+id+"/"+phase, &murmurv1.AttachRequest{Report: &murmurv1.AttachRequest_Stage{Stage: &murmurv1.StageProgress{
			ReleaseId: id, BytesDone: p.Done, BytesTotal: p.Total, FromPeers: p.FromPeers, FromSeeder: p.FromSeeder,
			FromDisk: p.FromDisk, Fallback: p.Fallback, Phase: phase,
		}}})
	}
}

// check decides whether the release may be on this host at all, before a byte of it is fetched.
func (a *Agent) check(service string, ref *murmurv1.ReleaseRef) (release.Manifest, string, error) {
	m, err := release.ParseManifest(ref.GetManifest())
	if err != nil {
		return m, "", fmt.Errorf("%w: %w", ErrRelease, err)
	}
	if m.ID != ref.GetId() || m.Service != service {
		return m, "", fmt.Errorf("%w: the manifest is of release %s of service %s, the order says %s of %s", ErrRelease, m.ID, m.Service, ref.GetId(), service)
	}
	key, err := a.cfg.Verifier.VerifyRelease(m, ref.GetManifest(), ref.GetEnvelope())
	if err != nil {
		return m, "", fmt.Errorf("%w: %w", ErrRelease, err)
	}
	return m, key, nil
}

// stageRelease brings one release here: trusted, then fetched, then verified and unpacked beside the others.
func (a *Agent) stageRelease(ctx context.Context, u *unit, ref *murmurv1.ReleaseRef, progress func(string, Progress)) error {
	m, key, err := a.check(u.name, ref)
	if err != nil || u.dir.Has(m.ID) {
		return err
	}
	if err := a.roomFor(m); err != nil {
		return err
	}
	sum := sha1.Sum(ref.GetTorrentInfo())
	art := Artifact{
		Info: ref.GetTorrentInfo(), Infohash: hex.EncodeToString(sum[:]), Size: m.Artifact.Size,
		Path:     filepath.Join(a.cfg.Root, artifactPath(m.ID)),
		Fallback: a.fallback(ref), Reuse: a.reuse(u, m, ref),
	}
	begun, got := time.Now(), Progress{}
	if err := a.cfg.Swarm.Fetch(ctx, art, func(p Progress) { got = p; progress("fetch", p) }); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	fetched := time.Now()
	stored := install.Stored{Manifest: ref.GetManifest(), Envelope: ref.GetEnvelope(), Info: ref.GetTorrentInfo(), KeyID: key}
	err = a.unpack(ctx, u, m, stored, progress)
	if errors.Is(err, artifact.ErrCorrupt) {
		// What the torrent says and what the manifest says differ: what is here is worth nothing.
		a.cfg.Swarm.Drop(art.Infohash)
		err = errors.Join(err, durable.Remove(a.root, artifactPath(m.ID)))
	}
	if err == nil {
		a.log.Info("release staged", "service", u.name, "release", m.ID, "bytes", m.Artifact.Size, "from_peers", got.FromPeers,
			"from_seeder", got.FromSeeder, "from_disk", got.FromDisk, "fallback", got.Fallback,
			"fetch_s", fetched.Sub(begun).Seconds(), "unpack_s", time.Since(fetched).Seconds())
	}
	return err
}

func (a *Agent) unpack(ctx context.Context, u *unit, m release.Manifest, stored install.Stored, progress func(string, Progress)) error {
	f, err := a.root.Open(artifactPath(m.ID))
	if err != nil {
		return fmt.Errorf("open the artifact: %w", err)
	}
	defer f.Close()
	idx, err := artifact.ReadIndex(f, m.Artifact)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	err = u.dir.Stage(m.ID, stored, func(dst *os.Root) error {
		return artifact.Unpack(ctx, f, m.Artifact, idx, dst, artifact.UnpackOptions{
			Progress: func(done int64) { progress("unpack", Progress{Done: done, Total: m.Artifact.RawSize}) },
		})
	})
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return nil
}

// roomFor refuses early what would fill the disk. What is here of the artifact already needs no room.
func (a *Agent) roomFor(m release.Manifest) error {
	free, _, err := a.space()
	if err != nil {
		return fmt.Errorf("measure the disk: %w", err)
	}
	const perFile = 4 << 10 // a block and an inode for each
	need := m.Artifact.Size + m.Artifact.RawSize + int64(m.Artifact.Files)*perFile
	for _, suffix := range []string{"", ".part"} {
		if info, err := a.root.Stat(artifactPath(m.ID) + suffix); err == nil {
			need -= min(allocated(info), m.Artifact.Size)
		}
	}
	if free-need < a.cfg.MinFree {
		return fmt.Errorf("%w: release %s needs %s, %s are free and %s are kept free; remove something or add disk",
			ErrDisk, m.ID, mib(need), mib(free), mib(a.cfg.MinFree))
	}
	return nil
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// clean removes the releases nobody needs, when what is needed has changed.
func (l *loop) clean(h *handle, t *murmurv1.ServiceTarget) {
	keep := map[string]bool{}
	for _, ref := range t.GetStage() {
		keep[ref.GetId()] = true
	}
	for _, id := range t.GetKeep() {
		keep[id] = true
	}
	j := h.snap.Journal
	for _, id := range []string{j.Active, j.Previous, j.Target, t.GetActive()} {
		keep[id] = true
	}
	if j.Pin != nil {
		keep[j.Pin.From], keep[j.Pin.To] = true, true
	}
	metas := make([]release.Meta, 0, len(h.ready))
	for id := range h.ready {
		metas = append(metas, release.Meta{ID: id, PublishedAt: release.IDTime(id)})
	}
	drop := release.Keep(metas, l.a.cfg.KeepReleases, keep)
	if len(drop) == 0 {
		return
	}
	l.command(h, func(context.Context) {
		for _, id := range drop {
			if err := l.a.remove(h.unit, id); err != nil {
				h.unit.log.Warn("clean up", "release", id, "err", err)
			}
		}
	})
	for _, id := range drop {
		delete(h.ready, id)
	}
}

// remove takes a release and its artifact off the disk.
func (a *Agent) remove(u *unit, id string) error {
	if s, _, err := u.dir.Load(id); err == nil && a.cfg.Swarm != nil && len(s.Info) > 0 {
		sum := sha1.Sum(s.Info)
		a.cfg.Swarm.Drop(hex.EncodeToString(sum[:]))
	}
	err := u.dir.Remove(id)
	return errors.Join(err, durable.Remove(a.root, artifactPath(id)))
}

// seedAll offers what is on disk to the peers, after a restart.
func (l *loop) seedAll() {
	if l.a.cfg.Swarm == nil {
		return
	}
	for _, h := range l.units {
		l.wg.Go(func() {
			for _, id := range h.unit.ready() {
				if err := l.a.seed(l.ctx, h.unit, id); err != nil && l.ctx.Err() == nil {
					h.unit.log.Warn("not offered to peers", "release", id, "err", err)
				}
			}
		})
	}
}

func (a *Agent) seed(ctx context.Context, u *unit, id string) error {
	s, m, err := u.dir.Load(id)
	if err != nil {
		return err
	}
	if _, err := a.root.Stat(artifactPath(id)); errors.Is(err, fs.ErrNotExist) || len(s.Info) == 0 {
		return nil
	}
	sum := sha1.Sum(s.Info)
	return a.cfg.Swarm.Seed(ctx, Artifact{
		Info: s.Info, Infohash: hex.EncodeToString(sum[:]), Size: m.Artifact.Size,
		Path: path.Join(a.cfg.Root, artifactPath(id)),
	})
}
