package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"

	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

// step is one verified part of the story. It returns what it saw, for the reader.
type step struct {
	name string
	run  func(s *story, ctx context.Context) (detail string, err error)
}

// story plays the demo without a human.
type story struct {
	*demo
	v1, v2     *pb.Release // set as they are published
	v2Rollout  *pb.Rollout
	command    time.Duration // what the last build command took
	roundTrips time.Duration // push to canary serving, build command and bake excluded
}

const service = "hello"

// steps are the story, in order. Each verifies what it did; the first that fails ends the story.
func steps() []step {
	return []step{
		{"first push", (*story).firstPush},
		{"staged everywhere, canary, all", (*story).firstRollout},
		{"push to canary serving", (*story).secondPush},
		{"restart under load", (*story).secondRollout},
		{"bad version caught", (*story).badVersion},
		{"agent killed while staging", (*story).killedStaging},
		{"agent killed while activating", (*story).killedActivating},
		{"fleet rolled back", (*story).fleetRollback},
		{"feature killed under load", (*story).killFeature},
		{"late host converges", (*story).lateHost},
		{"audit chain holds", (*story).audit},
	}
}

// play runs the story and reports every step; it returns an error when any failed.
func (d *demo) play(ctx context.Context, extra []step) error {
	s := &story{demo: d}
	begun := time.Now()
	for _, st := range append(steps(), extra...) {
		start := time.Now()
		detail, err := st.run(s, ctx)
		if err != nil {
			detail = strings.TrimSpace(detail + " " + err.Error())
		}
		d.report.print(Result{Step: st.name, OK: err == nil, Seconds: round(time.Since(start)), Detail: detail})
		if err != nil {
			break
		}
		if st.name == "push to canary serving" {
			d.report.print(Result{Step: "push to canary serving, build and bake excluded", OK: true, Seconds: round(s.roundTrips), Detail: "hook, checkout, pack, sign, publish, stage on every host, activate the canary"})
		}
	}
	total := d.load.mark()
	ok := !d.report.failed
	d.report.print(Result{Step: "story", OK: ok, Seconds: round(time.Since(begun)), Detail: fmt.Sprintf("%d requests answered, %d failed", total.ok, total.failed)})
	if !ok {
		return errStory
	}
	return nil
}

func round(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

// push commits a version and pushes it, and waits for its release.
func (s *story) push(ctx context.Context, version string, healthy bool) (*pb.Release, error) {
	if err := s.repo.set(version, healthy); err != nil {
		return nil, err
	}
	commit, err := s.repo.commit(ctx, "Say "+version)
	if err != nil {
		return nil, err
	}
	said, err := s.repo.push(ctx)
	if err != nil {
		return nil, err
	}
	for l := range strings.Lines(said) {
		s.report.say("       %s", strings.TrimSpace(l))
	}
	return s.published(ctx, commit)
}

// published waits for the release of a commit, or for its build to fail.
func (s *story) published(ctx context.Context, commit string) (*pb.Release, error) {
	build, err := s.buildOf(ctx, commit)
	if err != nil {
		return nil, err
	}
	stream, err := s.client.Releases.WatchBuild(ctx, connect.NewRequest(&pb.WatchBuildRequest{Id: build.Id}))
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var log []byte
	for stream.Receive() {
		if b := stream.Msg().Build; b != nil {
			build = b
		}
		log = append(log, stream.Msg().Log...)
	}
	s.command = commandTime(log)
	if err := stream.Err(); err != nil {
		return nil, err
	}
	if build.State != pb.BuildState_BUILD_STATE_PUBLISHED {
		return nil, fmt.Errorf("build %s ended as %s: %s", build.Id, build.State, build.Error)
	}
	got, err := s.client.Releases.GetRelease(ctx, connect.NewRequest(&pb.GetReleaseRequest{Service: build.Service, Id: build.ReleaseId}))
	if err != nil {
		return nil, err
	}
	return got.Msg.Release, nil
}

// buildOf waits until the hook's build is on record.
func (s *story) buildOf(ctx context.Context, commit string) (*pb.Build, error) {
	var found *pb.Build
	err := until(ctx, "the hook's build is on record", func() (bool, error) {
		resp, err := s.client.Releases.ListBuilds(ctx, connect.NewRequest(&pb.ListBuildsRequest{Limit: 10}))
		if err != nil {
			return false, err
		}
		for _, b := range resp.Msg.Builds {
			if b.Commit == commit {
				found = b
			}
		}
		return found != nil, nil
	})
	return found, err
}

// start begins a rollout of a release.
func (s *story) start(ctx context.Context, rel *pb.Release) (*pb.Rollout, error) {
	resp, err := s.client.Rollouts.StartRollout(ctx, connect.NewRequest(&pb.StartRolloutRequest{Service: service, Release: rel.Id, Reason: "the story"}))
	if err != nil {
		return nil, err
	}
	return resp.Msg.Rollout, nil
}

// follow watches a rollout of the sample service until want says so; that it ended otherwise is an error.
func (s *story) follow(ctx context.Context, id string, want func(*pb.Rollout) bool) (*pb.Rollout, error) {
	return s.followOf(ctx, service, id, want)
}

func (s *story) followOf(ctx context.Context, service, id string, want func(*pb.Rollout) bool) (*pb.Rollout, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.client.Rollouts.WatchRollout(ctx, connect.NewRequest(&pb.WatchRolloutRequest{Service: service, Id: id}))
	if err != nil {
		return nil, err
	}
	var last *pb.Rollout
	for stream.Receive() {
		if last = stream.Msg().Rollout; want(last) {
			return last, nil
		}
	}
	if err := stream.Err(); err != nil {
		return last, err
	}
	return last, fmt.Errorf("rollout ended as %s: %s", last.GetPhase(), last.GetReason())
}

func inPhase(phases ...string) func(*pb.Rollout) bool {
	return func(r *pb.Rollout) bool {
		return slices.Contains(phases, r.Phase)
	}
}

func (s *story) firstPush(ctx context.Context) (string, error) {
	rel, err := s.push(ctx, "v1", true)
	if err != nil {
		return "", err
	}
	s.v1 = rel
	return fmt.Sprintf("commit %.10s -> release %s, %d files, signed by %s", rel.Commit, rel.Id, rel.Files, rel.SignedBy), nil
}

// firstRollout checks that everything is staged before anything runs, that one host runs first, then all.
func (s *story) firstRollout(ctx context.Context) (string, error) {
	r, err := s.start(ctx, s.v1)
	if err != nil {
		return "", err
	}
	canary := 0
	r, err = s.follow(ctx, r.Id, func(r *pb.Rollout) bool {
		if r.Phase == "baking" && r.Step == 0 {
			canary = max(canary, int(r.Counts.Active))
		}
		return r.Phase == "complete"
	})
	if err != nil {
		return "", err
	}
	n := len(s.hosts.all)
	if canary != 1 || int(r.Counts.Active) != n || int(r.Counts.Staged) != n {
		return "", fmt.Errorf("%d canaries, %d active, %d staged of %d", canary, r.Counts.Active, r.Counts.Staged, n)
	}
	for _, h := range s.hosts.all {
		s.load.add(h.name, h.url)
	}
	if err := s.allSay(ctx, "v1"); err != nil {
		return "", err
	}
	s.load.start(s.ctx, 8)
	return fmt.Sprintf("%d hosts staged, 1 canary, then %d of %d serve v1", n, n, n), nil
}

// secondPush measures the way from a finished build to a canary that serves: no build and no bake in it.
func (s *story) secondPush(ctx context.Context) (string, error) {
	pushed := time.Now()
	rel, err := s.push(ctx, "v2", true)
	if err != nil {
		return "", err
	}
	s.v2 = rel
	r, err := s.start(ctx, rel)
	if err != nil {
		return "", err
	}
	s.v2Rollout = r
	r, err = s.follow(ctx, r.Id, func(r *pb.Rollout) bool { return r.Counts.GetActive() >= 1 })
	if err != nil {
		return "", err
	}
	canary := s.hostIn(r, "active")
	if canary == nil {
		return "", fmt.Errorf("no host of the rollout is active")
	}
	if err := s.says(ctx, canary, "v2"); err != nil {
		return "", err
	}
	total := time.Since(pushed)
	s.roundTrips = total - s.command
	return fmt.Sprintf("%s serves v2 %.2fs after the push, %.2fs of it the build command's", canary.name, total.Seconds(), s.command.Seconds()), nil
}

// secondRollout restarts every host under load and counts.
func (s *story) secondRollout(ctx context.Context) (string, error) {
	before := s.load.mark()
	return s.completes(ctx, s.v2Rollout.Id, "v2", before)
}

// completes waits until a rollout is complete and every host serves the version, and checks the traffic since.
func (s *story) completes(ctx context.Context, rollout, version string, before counted) (string, error) {
	if _, err := s.follow(ctx, rollout, inPhase("complete")); err != nil {
		return "", err
	}
	if err := s.allSay(ctx, version); err != nil {
		return "", err
	}
	return s.noneFailed(before)
}

// noneFailed checks the traffic since a mark.
func (s *story) noneFailed(before counted) (string, error) {
	n := s.load.since(before)
	detail := fmt.Sprintf("%d requests, %d failed", n.ok+n.failed, n.failed)
	if n.failed > 0 || n.ok == 0 {
		return detail, fmt.Errorf("last failures: %s", strings.Join(s.load.lastFailures(), "; "))
	}
	return detail, nil
}

// badVersion pushes a version that is never healthy: it must touch one host, go back by itself, and lock.
func (s *story) badVersion(ctx context.Context) (string, error) {
	before := s.load.mark()
	rel, err := s.push(ctx, "v3", false)
	if err != nil {
		return "", err
	}
	r, err := s.start(ctx, rel)
	if err != nil {
		return "", err
	}
	most := int32(0)
	r, err = s.follow(ctx, r.Id, func(r *pb.Rollout) bool {
		touched := int32(0)
		for _, h := range r.Hosts {
			if strings.Contains("activating active failed reverting reverted revert_failed", h.Phase) {
				touched++
			}
		}
		most = max(most, touched)
		return r.Phase == "rolled_back"
	})
	if err != nil {
		return "", err
	}
	if most > 1 {
		return "", fmt.Errorf("%d hosts were touched by the bad version", most)
	}
	if err := s.allSay(ctx, "v2"); err != nil {
		return "", err
	}
	svc, err := s.client.Services.GetService(ctx, connect.NewRequest(&pb.GetServiceRequest{Name: service}))
	if err != nil {
		return "", err
	}
	if svc.Msg.Service.Lock == nil {
		return "", fmt.Errorf("the service was not locked")
	}
	_, err = s.client.Rollouts.StartRollout(ctx, connect.NewRequest(&pb.StartRolloutRequest{Service: service, Release: rel.Id}))
	if err == nil {
		return "", fmt.Errorf("a rollout was accepted while the service is locked")
	}
	if _, err := s.client.Services.UnlockService(ctx, connect.NewRequest(&pb.UnlockServiceRequest{Name: service})); err != nil {
		return "", err
	}
	detail, err := s.noneFailed(before)
	return "stopped at 1 canary, rolled back, locked: " + r.Reason + "; " + detail, err
}

// killedStaging kills an agent with SIGKILL while it stages, starts it again, and expects the rollout to end.
func (s *story) killedStaging(ctx context.Context) (string, error) {
	before := s.load.mark()
	if err := s.repo.pad(32 << 20); err != nil {
		return "", err
	}
	rel, err := s.push(ctx, "v4", true)
	if err != nil {
		return "", err
	}
	r, err := s.start(ctx, rel)
	if err != nil {
		return "", err
	}
	victim := s.hosts.all[len(s.hosts.all)-1]
	seen := ""
	if _, err := s.follow(ctx, r.Id, func(r *pb.Rollout) bool {
		for _, h := range r.Hosts {
			if h.Name == victim.name && h.Phase != "waiting" {
				seen = h.Phase
			}
		}
		return seen != ""
	}); err != nil {
		return "", err
	}
	if err := s.restart(ctx, victim); err != nil {
		return "", err
	}
	detail, err := s.completes(ctx, r.Id, "v4", before)
	return fmt.Sprintf("%s killed with -9 while %s; it serves v4; %s", victim.name, seen, detail), err
}

// killedActivating does the same in the middle of an activation.
func (s *story) killedActivating(ctx context.Context) (string, error) {
	before := s.load.mark()
	rel, err := s.push(ctx, "v5", true)
	if err != nil {
		return "", err
	}
	r, err := s.start(ctx, rel)
	if err != nil {
		return "", err
	}
	var victim *host
	if _, err := s.follow(ctx, r.Id, func(r *pb.Rollout) bool {
		victim = s.hostIn(r, "activating")
		return victim != nil
	}); err != nil {
		return "", err
	}
	if err := s.restart(ctx, victim); err != nil {
		return "", err
	}
	detail, err := s.completes(ctx, r.Id, "v5", before)
	return fmt.Sprintf("%s killed with -9; it serves v5; %s", victim.name, detail), err
}

// restart kills an agent without warning and starts it again.
func (s *story) restart(ctx context.Context, h *host) error {
	if err := h.signal(ctx, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill -9 %s: %w", h.name, err)
	}
	return h.start(s.hosts.binary)
}

// fleetRollback takes the whole fleet back to the release before.
func (s *story) fleetRollback(ctx context.Context) (string, error) {
	before := s.load.mark()
	start := time.Now()
	resp, err := s.client.Rollouts.RollbackService(ctx, connect.NewRequest(&pb.RollbackServiceRequest{Service: service, Reason: "the story"}))
	if err != nil {
		return "", err
	}
	if _, err := s.follow(ctx, resp.Msg.Rollout.Id, inPhase("rolled_back", "complete")); err != nil {
		return "", err
	}
	took := time.Since(start)
	if err := s.allSay(ctx, "v4"); err != nil {
		return "", err
	}
	detail, err := s.noneFailed(before)
	return fmt.Sprintf("%d hosts back on v4 in %.2fs; %s", len(s.hosts.all), took.Seconds(), detail), err
}

// lateHost joins one more host and expects it to run the stable release by itself.
func (s *story) lateHost(ctx context.Context) (string, error) {
	h, err := s.hosts.add(ctx, "host-13", "r4", "b")
	if err != nil {
		return "", err
	}
	if err := s.says(ctx, h, "v4"); err != nil {
		return "", err
	}
	return h.name + " joined, staged and serves v4", nil
}

func (s *story) audit(ctx context.Context) (string, error) {
	resp, err := s.client.Identity.VerifyAudit(ctx, connect.NewRequest(&pb.VerifyAuditRequest{}))
	if err != nil {
		return "", err
	}
	if resp.Msg.FirstBad != 0 {
		return "", fmt.Errorf("broken at record %d: %s", resp.Msg.FirstBad, resp.Msg.Error)
	}
	return fmt.Sprintf("%d records", resp.Msg.Records), nil
}
