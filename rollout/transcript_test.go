package rollout_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/rollout"
)

var rewrite = flag.Bool("rewrite", false, "write what the transcripts in testdata now say; review the difference like code")

// TestTranscripts plays every file of testdata. A transcript is made of comments (#), commands, each followed by
// ---- and what came of it, up to an empty line. Effects other than set_stable are confirmed as soon as they were
// printed, unless the plan says "confirm=no".
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %d transcripts (%v), want at least 20", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			script, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newPlayer(t).play(string(script))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(script), got); diff != "" {
				t.Errorf("%s went otherwise (-want +got), see -rewrite:\n%s", file, diff)
			}
		})
	}
}

// player performs a transcript.
type player struct {
	t       testing.TB
	s       rollout.State
	start   time.Time
	now     time.Time
	confirm bool
	hosts   string // as last printed
	out     strings.Builder
}

func newPlayer(t testing.TB) *player {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return &player{t: t, start: at, now: at, confirm: true}
}

func (p *player) play(script string) string {
	lines := strings.Split(strings.TrimRight(script, "\n"), "\n")
	skip := false
	for _, line := range lines {
		switch {
		case skip:
			skip = line != ""
			if !skip {
				p.out.WriteString("\n")
			}
		case line == "" || strings.HasPrefix(line, "#"):
			p.out.WriteString(line + "\n")
		case line == "----":
			skip = true
		default:
			p.out.WriteString(line + "\n----\n")
			p.command(strings.Fields(line))
		}
	}
	return strings.TrimRight(p.out.String(), "\n") + "\n"
}

func (p *player) printf(format string, args ...any) { fmt.Fprintf(&p.out, format+"\n", args...) }

func (p *player) command(words []string) {
	name, args := words[0], words[1:]
	switch name {
	case "plan":
		p.plan(args)
	case "targets":
		for host, t := range p.s.Targets() {
			if one, ok := p.s.Target(host); !ok || !cmp.Equal(one, t) {
				p.t.Errorf("Target(%s) = %v, %v, among Targets it is %v", host, one, ok, t)
			}
			p.printf("%s: run %q%s, keep %s", host, t.Active, map[bool]string{true: " (way back)"}[t.WayBack], strings.Join(t.Stage, " "))
		}
	case "timer":
		if at, ok := p.s.NextTimer(p.now); ok {
			p.printf("at +%s", at.Sub(p.start))
		} else {
			p.printf("none")
		}
		if at, ok := p.s.BakeUntil(); ok {
			p.printf("bake until +%s", at.Sub(p.start))
		}
	case "timeline":
		for _, e := range p.s.Timeline {
			p.printf("+%s %s", e.At.Sub(p.start), strings.Join(strings.Fields(e.Kind+" "+e.Host+" "+e.By+": "+e.Text), " "))
		}
	case "restart":
		p.restart()
	case "tick":
		p.now = p.now.Add(p.duration(args[0]))
		p.step(rollout.Tick{At: rollout.At(p.now)})
	default:
		p.step(p.events(name, args)...)
	}
}

// restart is what a new leader does: read the state, see what is in its outbox.
func (p *player) restart() {
	value, err := json.Marshal(p.s)
	if err != nil {
		p.t.Fatal(err)
	}
	p.s = rollout.State{}
	if err := json.Unmarshal(value, &p.s); err != nil {
		p.t.Fatal(err)
	}
	p.printf("outbox:")
	p.effects(p.s.Outbox)
}

func (p *player) step(events ...rollout.Event) {
	version := p.s.Version
	next, effects, err := rollout.StepAll(p.s, events)
	if err != nil {
		p.printf("error: %v", err)
	}
	p.s = next
	if p.s.Version == version {
		p.printf("unchanged")
		return
	}
	p.show(effects)
}

// show prints the state, and confirms effects.
func (p *player) show(effects []rollout.Effect) {
	where := fmt.Sprintf("+%s %s", p.now.Sub(p.start), p.s.Phase)
	if p.s.Cause != "" {
		where += fmt.Sprintf("(%s, then %s)", p.s.Cause, p.s.Resume)
	}
	where += fmt.Sprintf(" step %d/%d", p.s.Step+1, len(p.s.Plan.Steps))
	if p.s.Reason != "" {
		where += ": " + p.s.Reason
	}
	p.printf("%s", where)
	if hosts := p.hostLine(); hosts != p.hosts {
		p.printf("  %s", hosts)
		p.hosts = hosts
	}
	p.effects(effects)
	if !p.confirm {
		return
	}
	for _, e := range effects {
		if e.Kind == rollout.SetStable {
			continue
		}
		var err error
		if p.s, _, err = rollout.Step(p.s, rollout.EffectDone{At: rollout.At(p.now), Key: e.Key}); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *player) effects(effects []rollout.Effect) {
	for _, e := range effects {
		line := "  > " + string(e.Kind)
		if len(e.Hosts) > 0 {
			line += " " + strings.Join(e.Hosts, " ")
		}
		if e.Text != "" {
			line += fmt.Sprintf(" %q", e.Text)
		}
		p.printf("%s", line)
	}
}

// hostLine groups hosts by phase, in plan order; ? marks lost ones, x those that are gone.
func (p *player) hostLine() string {
	var order []string
	groups := map[string][]string{}
	for i, h := range p.s.Hosts {
		phase := string(h.Phase)
		if _, ok := groups[phase]; !ok {
			order = append(order, phase)
		}
		mark := ""
		if h.Lost {
			mark = "?"
		}
		if h.Gone {
			mark = "x"
		}
		groups[phase] = append(groups[phase], p.s.Plan.Hosts[i].ID+mark)
	}
	parts := make([]string, len(order))
	for i, phase := range order {
		parts[i] = phase + " " + strings.Join(groups[phase], " ")
	}
	return strings.Join(parts, ", ")
}

// events makes the events of a command. Hosts are named, or "all" stands for those the event says something to.
func (p *player) events(name string, args []string) []rollout.Event {
	at := rollout.At(p.now)
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	rest := func(i int) string { return strings.Join(args[min(i, len(args)):], " ") }
	switch name {
	case "slot":
		return []rollout.Event{rollout.SlotGranted{At: at}}
	case "gate":
		return []rollout.Event{rollout.GateDecided{At: at, Decision: rollout.GateDecision(arg(0)), Reason: rest(1)}}
	case "stage-failed":
		return []rollout.Event{rollout.HostStageFailed{At: at, Host: arg(0), Detail: rest(1)}}
	case "failed":
		return []rollout.Event{rollout.HostFailed{At: at, Host: arg(0), Release: p.s.Plan.Release, Detail: rest(1)}}
	case "failed-home":
		return []rollout.Event{rollout.HostFailed{At: at, Host: arg(0), Release: p.home(arg(0)), Detail: rest(1)}}
	case "verdict":
		step, err := strconv.Atoi(arg(0))
		if err != nil {
			p.t.Fatalf("verdict %v: %v", args, err)
		}
		return []rollout.Event{rollout.VerdictGiven{At: at, Step: step - 1, Verdict: rollout.Verdict(arg(1)), Reason: rest(2)}}
	case "pause":
		return []rollout.Event{rollout.PauseAsked{At: at, By: arg(0), Reason: rest(1)}}
	case "resume":
		return []rollout.Event{rollout.ResumeAsked{At: at, By: arg(0)}}
	case "promote":
		return []rollout.Event{rollout.PromoteAsked{At: at, By: arg(0), All: arg(1) == "all"}}
	case "abort":
		return []rollout.Event{rollout.AbortAsked{At: at, By: arg(0), Reason: rest(1)}}
	case "rollback":
		return []rollout.Event{rollout.RollbackAsked{At: at, By: arg(0), Reason: rest(1)}}
	case "stop":
		return []rollout.Event{rollout.Stopped{At: at, By: arg(0), Reason: rest(1)}}
	case "done":
		return p.done(arg(0))
	}
	return p.hostEvents(name, args)
}

func (p *player) hostEvents(name string, hosts []string) []rollout.Event {
	at := rollout.At(p.now)
	if len(hosts) == 1 && hosts[0] == "all" {
		hosts = p.concerned(name)
	}
	var events []rollout.Event
	for _, h := range hosts {
		switch name {
		case "staged":
			events = append(events, rollout.HostStaged{At: at, Host: h})
		case "active":
			events = append(events, rollout.HostActivated{At: at, Host: h, Release: p.s.Plan.Release})
		case "home":
			events = append(events, rollout.HostActivated{At: at, Host: h, Release: p.home(h)})
		case "lost":
			events = append(events, rollout.HostLost{At: at, Host: h})
		case "returned":
			events = append(events, rollout.HostReturned{At: at, Host: h})
		case "removed":
			events = append(events, rollout.HostRemoved{At: at, Host: h})
		default:
			p.t.Fatalf("unknown command %q", name)
		}
	}
	return events
}

// concerned is what "all" means.
func (p *player) concerned(name string) []string {
	want := map[string]rollout.HostPhase{
		"staged": rollout.StagingHost, "active": rollout.ActivatingHost, "home": rollout.RevertingHost,
	}[name]
	var ids []string
	for i, h := range p.s.Hosts {
		if want == "" || h.Phase == want && !h.Lost && !h.Gone {
			ids = append(ids, p.s.Plan.Hosts[i].ID)
		}
	}
	return ids
}

func (p *player) home(id string) string {
	for _, h := range p.s.Plan.Hosts {
		if h.ID == id && h.Previous != "" {
			return h.Previous
		}
	}
	return p.s.Plan.Stable
}

func (p *player) done(kind string) []rollout.Event {
	var events []rollout.Event
	for _, e := range p.s.Outbox {
		if kind == "all" || string(e.Kind) == kind {
			events = append(events, rollout.EffectDone{At: rollout.At(p.now), Key: e.Key})
		}
	}
	return events
}

func (p *player) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

// plan starts a rollout of r2 over r1. Hosts are "id:dc/rack" in cohort order, steps "size/bake[/manual]".
func (p *player) plan(args []string) {
	plan := rollout.Plan{ID: "R", Service: "web", Release: "r2", Stable: "r1", By: "ann", Limits: rollout.Limits{
		MaxUnavailable: 2, MaxUnavailablePerRack: 2, MinHealthy: 10 * time.Second,
		HealthyDeadline: 5 * time.Minute, ProgressDeadline: 10 * time.Minute, StageDeadline: 10 * time.Minute,
	}}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		if !p.planLimit(&plan.Limits, name, value) {
			p.planField(&plan, name, value)
		}
	}
	s, effects, err := rollout.New(plan, p.now)
	if err != nil {
		if !errors.Is(err, rollout.ErrPlan) {
			p.t.Fatalf("New: %v does not wrap ErrPlan", err)
		}
		p.printf("error: %v", err)
		return
	}
	p.s = s
	p.show(effects)
}

func (p *player) planField(plan *rollout.Plan, name, value string) {
	switch name {
	case "hosts":
		for text := range strings.SplitSeq(value, ",") {
			id, at, _ := strings.Cut(text, ":")
			dc, rack, _ := strings.Cut(at, "/")
			plan.Hosts = append(plan.Hosts, rollout.Host{ID: id, DC: dc, Rack: rack, Previous: plan.Stable})
		}
	case "steps":
		for text := range strings.SplitSeq(value, ",") {
			plan.Steps = append(plan.Steps, p.widening(text))
		}
	case "stable":
		plan.Stable = value
	case "instant":
		plan.Instant = true
	case "verdict":
		plan.NeedVerdict = true
	case "confirm":
		p.confirm = value != "no"
	default:
		p.t.Fatalf("unknown plan setting %q", name)
	}
}

func (p *player) widening(text string) rollout.Widening {
	parts := strings.Split(text, "/")
	var w rollout.Widening
	if strings.HasSuffix(parts[0], "%") {
		d, err := dial.Parse(parts[0])
		if err != nil {
			p.t.Fatal(err)
		}
		w.Dial = d
	} else {
		w.Hosts, _ = strconv.Atoi(parts[0])
	}
	if len(parts) > 1 {
		w.Bake = p.duration(parts[1])
		w.MaxBake = 3 * w.Bake
	}
	w.Manual = len(parts) > 2
	return w
}

func (p *player) planLimit(l *rollout.Limits, name, value string) bool {
	switch name {
	case "max":
		l.MaxUnavailable, _ = strconv.Atoi(value)
	case "rack":
		l.MaxUnavailablePerRack, _ = strconv.Atoi(value)
	case "failures":
		l.MaxFailures, _ = strconv.Atoi(value)
	case "noauto":
		l.NoAutoRollback = true
	case "across-racks":
		l.AcrossRacks = true
	case "across-dcs":
		l.AcrossDCs = true
	case "dcbake":
		l.DCBake = p.duration(value)
	case "firstdcbake":
		l.FirstDCBake = p.duration(value)
	case "healthy":
		l.HealthyDeadline = p.duration(value)
	case "progress":
		l.ProgressDeadline = p.duration(value)
	default:
		return false
	}
	return true
}
