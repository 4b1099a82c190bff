package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/murmuration/murmuration/internal/client"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

// watch follows a rollout to its end: live bars on a terminal, a line per change elsewhere, one JSON object
// per change with --json. It returns [ErrQuiet] unless the rollout ended as was wanted: complete, or gone back
// when back says that this was asked for.
func (a *app) watch(ctx context.Context, c *client.Client, service, id string, back bool) error {
	stream, err := c.Rollouts.WatchRollout(ctx, connect.NewRequest(&pb.WatchRolloutRequest{Service: service, Id: id}))
	if err != nil {
		return err
	}
	defer stream.Close()
	v := a.view()
	var last *pb.Rollout
	for stream.Receive() {
		last = stream.Msg().Rollout
		if err := v.update(last); err != nil {
			return err
		}
	}
	v.close()
	if err := stream.Err(); err != nil {
		return err
	}
	if last == nil {
		return fmt.Errorf("rollout of %s: the server sent nothing", service)
	}
	return a.ending(last, back)
}

// ending says how a rollout ended, and what to do next when it did not end well.
func (a *app) ending(r *pb.Rollout, back bool) error {
	well := r.Phase == "complete" || (r.Phase == "rolled_back" && (back || r.Instant))
	if !a.json {
		fmt.Fprintf(a.Stdout, "%s: %s", r.Service, strings.ReplaceAll(r.Phase, "_", " "))
		if r.Reason != "" {
			fmt.Fprintf(a.Stdout, ": %s", clean(r.Reason))
		}
		fmt.Fprintln(a.Stdout)
		if !well {
			printTroubled(a.Stdout, r)
			fmt.Fprintf(a.Stdout, "see: murmur rollout show %s; murmur rollout scripts %s HOST; murmur service unlock %s\n", r.Service, r.Service, r.Service)
		}
	}
	if !well {
		return ErrQuiet
	}
	return nil
}

type rolloutView interface {
	update(*pb.Rollout) error
	close()
}

func (a *app) view() rolloutView {
	if a.json {
		return jsonView{a}
	}
	if f, ok := a.Stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return newBars(f)
	}
	return &plainView{w: a.Stdout}
}

type jsonView struct{ a *app }

func (v jsonView) update(r *pb.Rollout) error { return v.a.line(r) }
func (v jsonView) close()                     {}

// plainView prints a line whenever what it would say changes.
type plainView struct {
	w    io.Writer
	last string
	seen int
}

func (v *plainView) update(r *pb.Rollout) error {
	if v.seen > len(r.Timeline) {
		v.seen = 0
	}
	for _, e := range r.Timeline[v.seen:] {
		fmt.Fprintf(v.w, "%s  %s\n", e.At.AsTime().Local().Format("15:04:05.000"), clean(entryText(r, e)))
	}
	v.seen = len(r.Timeline)
	if s := summary(r); s != v.last {
		v.last = s
		fmt.Fprintf(v.w, "              %s\n", s)
	}
	return nil
}

func (v *plainView) close() {}

// summary is a rollout in one line.
func summary(r *pb.Rollout) string {
	n := r.Counts
	if n == nil {
		n = &pb.HostCounts{}
	}
	s := fmt.Sprintf("%s, step %d/%d: %d of %d staged, %d active", r.Phase, r.Step+1, len(r.Steps), n.Staged, n.Total, n.Active)
	if n.Failed > 0 {
		s += fmt.Sprintf(", %d failed", n.Failed)
	}
	if n.Lost > 0 {
		s += fmt.Sprintf(", %d lost", n.Lost)
	}
	if n.Reverted > 0 {
		s += fmt.Sprintf(", %d back", n.Reverted)
	}
	return s
}

// bars shows three live bars: bytes on the swarm, hosts staged, hosts active; and where the rollout is.
type bars struct {
	p                     *mpb.Progress
	swarm, staged, active *mpb.Bar
	phase, rate           string
	seen                  int
}

func newBars(w io.Writer) *bars {
	b := &bars{p: mpb.New(mpb.WithOutput(w), mpb.WithWidth(48), mpb.WithRefreshRate(100*time.Millisecond))}
	name := func(s string) mpb.BarOption {
		return mpb.PrependDecorators(decor.Name(s, decor.WC{W: 8, C: decor.DindentRight}))
	}
	b.swarm = b.p.AddBar(0, name("swarm"), mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f "), decor.Any(func(decor.Statistics) string { return b.rate })))
	b.staged = b.p.AddBar(0, name("staged"), mpb.AppendDecorators(decor.CountersNoUnit("%d / %d hosts")))
	b.active = b.p.AddBar(0, name("active"), mpb.AppendDecorators(decor.CountersNoUnit("%d / %d hosts "), decor.Any(func(decor.Statistics) string { return b.phase })))
	return b
}

func (b *bars) update(r *pb.Rollout) error {
	if b.seen > len(r.Timeline) {
		b.seen = 0
	}
	for _, e := range r.Timeline[b.seen:] {
		fmt.Fprintf(b.p, "%s  %s\n", e.At.AsTime().Local().Format("15:04:05"), clean(entryText(r, e)))
	}
	b.seen = len(r.Timeline)
	if n := r.Counts; n != nil {
		set(b.staged, int64(n.Staged), int64(n.Total))
		set(b.active, int64(n.Active), int64(n.Total))
	}
	if s := r.Swarm; s != nil {
		set(b.swarm, s.BytesDone, s.BytesTotal)
		b.rate = fmt.Sprintf("%s/s, seeder sent %s", size(int64(s.BytesPerSecond)), size(s.SeederSent))
		if s.Eta != nil && s.BytesDone < s.BytesTotal {
			b.rate += ", " + short(s.Eta.AsDuration()) + " left"
		}
		if s.FallbackBytes > 0 {
			b.rate += fmt.Sprintf(", %s by last resort", size(s.FallbackBytes))
		}
	}
	b.phase = strings.ReplaceAll(r.Phase, "_", " ")
	if r.BakeUntil != nil {
		if left := time.Until(r.BakeUntil.AsTime()); left > 0 {
			b.phase += ", " + short(left) + " left"
		}
	}
	return nil
}

// set moves a bar without ever completing it: a finished bar would no longer follow.
func set(b *mpb.Bar, current, total int64) {
	b.SetTotal(max(total, 1), false)
	b.SetCurrent(min(current, total))
}

func (b *bars) close() {
	for _, bar := range []*mpb.Bar{b.swarm, b.staged, b.active} {
		bar.SetTotal(-1, true)
		bar.Abort(false)
	}
	b.p.Wait()
}
