package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/client"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

// plane is a control plane: one `murmur up` process that keeps its ports over restarts.
type plane struct {
	dir, api, swarm, flags string
	args                   []string
	proc                   *daemon
	client                 *client.Client
}

// env is what a process needs to speak to the plane as its first admin, and nothing of the machine's user.
func (p *plane) env() []string {
	return []string{
		"MURMUR_CONFIG=" + filepath.Join(p.dir, "config.json"), "MURMUR_STATE=" + filepath.Join(p.dir, "builder"), "HOME=" + p.dir,
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_AUTHOR_NAME=Dana Developer", "GIT_AUTHOR_EMAIL=dana@example.com",
		"GIT_COMMITTER_NAME=Dana Developer", "GIT_COMMITTER_EMAIL=dana@example.com",
	}
}

func startPlane(t testing.TB, args ...string) *plane {
	t.Helper()
	p := &plane{dir: folder(t), api: freePort(t), swarm: freePort(t), flags: freePort(t), args: args}
	p.start(t)
	t.Cleanup(func() { p.proc.end(t, syscall.SIGTERM) })
	c, err := client.Load(func(name string) string {
		if name == client.EnvConfig {
			return filepath.Join(p.dir, "config.json")
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.client, err = client.New(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.client.Close)
	return p
}

// start runs the process, for the first time or again, and waits until it answers.
func (p *plane) start(t testing.TB) {
	t.Helper()
	log := filepath.Join(p.dir, "up.log")
	said := func() int {
		b, _ := os.ReadFile(log) // missing before the first start
		return strings.Count(string(b), "logged in as admin")
	}
	before := said()
	args := append([]string{"murmur", "up", "--dir", filepath.Join(p.dir, "up"), "--listen", p.api, "--swarm-listen", p.swarm, "--flagd-listen", p.flags}, p.args...)
	p.proc = launch(t, log, p.env(), args...)
	eventually(t, "the control plane answers", func() (bool, string) {
		select {
		case <-p.proc.exited:
			t.Fatalf("the control plane ended:\n%s", p.proc.text(t))
		default:
		}
		return said() > before, p.proc.text(t)
	})
}

func (p *plane) url() string { return "https://" + p.api }

// kill ends the control plane without warning.
func (p *plane) kill(t testing.TB) { t.Helper(); p.proc.end(t, syscall.SIGKILL) }

// murmur runs one command line to its end, as the admin.
func (p *plane) murmur(t testing.TB, args ...string) string {
	t.Helper()
	return run(t, p.env(), append([]string{"murmur"}, args...)...)
}

// host is one agent process with its folder. url is where its sample service answers.
type host struct {
	name, root, url string
	args            []string
	proc            *daemon
}

// fleet is a control plane with hosts and one repository.
type fleet struct {
	*plane
	hosts []*host
	repo  string
}

// newFleet starts a control plane and n hosts h1 .. hn, each in a rack of its own. agent are further arguments
// of every agent.
func newFleet(t testing.TB, n int, agent ...string) *fleet {
	t.Helper()
	f := &fleet{plane: startPlane(t)}
	t.Cleanup(func() { f.stop(t) })
	for i := range n {
		h := f.join(t, fmt.Sprintf("h%d", i+1), filepath.Join(f.dir, fmt.Sprintf("h%d", i+1)))
		h.args = append(h.args, agent...)
		f.run(t, h)
	}
	f.repo = filepath.Join(f.dir, "hello")
	f.git(t, "init", "--quiet", "--initial-branch=main", f.repo)
	var key struct {
		PublicKey string `json:"public_key"`
	}
	if err := json.Unmarshal([]byte(f.murmur(t, "builder", "key", "--json")), &key); err != nil {
		t.Fatal(err)
	}
	f.murmur(t, "builder", "add", "e2e", "--public-key", key.PublicKey)
	eventually(t, "every host is attached", func() (bool, string) {
		list := f.murmur(t, "host", "list")
		return len(logged(list, " up ")) == n, list
	})
	return f
}

// join makes a host of the fleet without running its agent.
func (f *fleet) join(t testing.TB, name, root string) *host {
	t.Helper()
	token := strings.TrimSpace(f.murmur(t, "join-token", "create", "--label", "dc=a,rack="+name))
	port := freePort(t)
	run(t, f.env(), "murmur-agent", "join", "--seeder", f.url(), "--token", token, "--root", root, "--name", name)
	h := &host{name: name, root: root, url: "http://" + port + "/", args: []string{"murmur-agent", "run", "--root", root, "--swarm-listen", "127.0.0.1:0"}}
	// In the file and not in the arguments: local commands read it too.
	h.configure(t, "listen: {hello/http: \""+port+"\"}\n")
	return h
}

// configure appends to the host's agent.yaml.
func (h *host) configure(t testing.TB, yaml string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(h.root, ".murmur", "agent.yaml"), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(yaml); err != nil {
		t.Fatal(err)
	}
}

// run starts a host's agent, for the first time or again, and counts it as the fleet's.
func (f *fleet) run(t testing.TB, h *host) {
	t.Helper()
	if !slices.Contains(f.hosts, h) {
		f.hosts = append(f.hosts, h)
	}
	h.proc = launch(t, filepath.Join(f.dir, h.name+".log"), f.env(), h.args...)
}

// stop drains every host and ends the agents. Whatever runs below the fleet's folder after that, but for the
// control plane itself, was not stopped by a drain.
func (f *fleet) stop(t testing.TB) {
	for _, h := range f.hosts {
		_, _, _ = try(f.env(), "murmur", "host", "drain", h.name) // a removed host has nobody to drain it
	}
	deadline := time.Now().Add(20 * time.Second)
	for len(f.services()) > 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	if left := f.services(); len(left) > 0 {
		t.Errorf("services run on after their hosts were drained: %v", left)
	}
	for _, h := range f.hosts {
		h.proc.end(t, syscall.SIGTERM)
	}
	endAll(f.services())
	if t.Failed() {
		f.tell(t)
	}
}

// services lists the processes that the fleet's agents started.
func (f *fleet) services() []process {
	return slices.DeleteFunc(processesBelow(f.dir), func(p process) bool { return !strings.Contains(p.what, "/hello") })
}

// tell prints the end of every log, after a failure.
func (f *fleet) tell(t testing.TB) {
	for _, d := range append([]*daemon{f.proc}, f.agents()...) {
		all := slices.Collect(strings.Lines(d.text(t)))
		t.Logf("%s:\n%s", d.log, strings.Join(all[max(0, len(all)-40):], ""))
	}
}

func (f *fleet) agents() []*daemon {
	var list []*daemon
	for _, h := range f.hosts {
		list = append(list, h.proc)
	}
	return list
}

func (f *fleet) git(t testing.TB, args ...string) string {
	t.Helper()
	return strings.TrimSpace(run(t, f.env(), append([]string{"git"}, args...)...))
}

// recipe is the sample service's murmur.yaml: prebuilt, healthy within half a second, one host at a time.
const recipe = `service: hello
run: {kind: process, command: ./hello, stop_timeout: 20s}
ports: [{name: http, listen: "127.0.0.1:0"}]
health: [{http: /healthz, interval: 100ms, successes: 3, deadline: 20s}]
strategy:
  steps: [{hosts: 1}, {dial: 10000}]
  max_unavailable: 1
  max_unavailable_per_rack: 100%
  min_healthy: 200ms
  stage_deadline: 60s
  across_racks: true
`

// publish commits version of the sample service with more files, builds it with the real builder, and returns
// the release's id.
func (f *fleet) publish(t testing.TB, version string, more map[string][]byte) string {
	t.Helper()
	files := map[string][]byte{"hello": sample(t, version), "murmur.yaml": []byte(recipe)}
	maps.Copy(files, more)
	write(t, f.repo, files)
	f.git(t, "-C", f.repo, "add", "-A")
	f.git(t, "-C", f.repo, "commit", "--quiet", "-m", "Say "+version)
	var built struct {
		ReleaseID string `json:"release_id"`
	}
	if err := json.Unmarshal([]byte(f.murmur(t, "release", "build", f.repo, "--json")), &built); err != nil || built.ReleaseID == "" {
		t.Fatalf("release build --json: %v, %+v", err, built)
	}
	return built.ReleaseID
}

// samples serialises the builds of the sample service: each version is built once for the suite.
var samples sync.Mutex

// sample is testdata/hello, compiled to say version.
func sample(t testing.TB, version string) []byte {
	t.Helper()
	samples.Lock()
	defer samples.Unlock()
	out := filepath.Join(base, "sample", "hello-"+version)
	if b, err := os.ReadFile(out); err == nil {
		return b
	}
	run(t, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-ldflags=-s -X main.version="+version, "-o", out, "./testdata/hello")
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// begin starts a rollout and returns its id.
func (f *fleet) begin(t testing.TB, release string) string {
	t.Helper()
	resp, err := f.client.Rollouts.StartRollout(t.Context(), connect.NewRequest(&pb.StartRolloutRequest{Service: "hello", Release: release, Reason: t.Name()}))
	if err != nil {
		t.Fatal(err)
	}
	return resp.Msg.Rollout.Id
}

// until polls a rollout until want says so. That the control plane does not answer is only waited for.
func (f *fleet) until(t testing.TB, id, what string, want func(*pb.Rollout) bool) *pb.Rollout {
	t.Helper()
	var last *pb.Rollout
	eventually(t, "rollout "+what, func() (bool, string) {
		resp, err := f.client.Rollouts.GetRollout(t.Context(), connect.NewRequest(&pb.GetRolloutRequest{Service: "hello", Id: id}))
		if err != nil {
			return false, err.Error()
		}
		last = resp.Msg.Rollout
		if finished(last.Phase) && !want(last) {
			t.Fatalf("rollout %s while waiting until %s: %s; %v", last.Phase, what, last.Reason, last.Counts)
		}
		return want(last), fmt.Sprintf("%s: %s; %v", last.Phase, last.Reason, last.Counts)
	})
	return last
}

func finished(phase string) bool {
	return slices.Contains([]string{"complete", "rolled_back", "failed", "aborted"}, phase)
}

func phase(name string) func(*pb.Rollout) bool {
	return func(r *pb.Rollout) bool { return r.Phase == name }
}

// deploy publishes a version, rolls it out to the end, and returns its id.
func (f *fleet) deploy(t testing.TB, version string) string {
	t.Helper()
	id := f.publish(t, version, nil)
	f.until(t, f.begin(t, id), "complete", phase("complete"))
	f.allSay(t, version)
	return id
}

// ask asks a host's service once, over a connection of its own.
func (h *host) ask() (string, error) {
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(h.url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, b)
	}
	return string(b), err
}

func (h *host) says(t testing.TB, version string) {
	t.Helper()
	eventually(t, h.name+" serves "+version, func() (bool, string) {
		body, err := h.ask()
		return err == nil && strings.Contains(body, "hello from "+version+","), fmt.Sprint(body, err)
	})
}

func (f *fleet) allSay(t testing.TB, version string) {
	t.Helper()
	for _, h := range f.hosts {
		h.says(t, version)
	}
}

// settledOnce expects that each host's agents, over all their lives, settled on a release exactly n times.
func (f *fleet) settled(t testing.TB, release string, n int) {
	t.Helper()
	for _, h := range f.hosts {
		if got := logged(h.proc.text(t), "release settled", "release="+release, "outcome=healthy"); len(got) != n {
			t.Errorf("%s settled on %s %d times, want %d: %s", h.name, release, len(got), n, lines(got))
		}
	}
}

// audit expects an unbroken record.
func (f *fleet) audit(t testing.TB) {
	t.Helper()
	if said := f.murmur(t, "audit", "verify"); !strings.Contains(said, "the chain holds") {
		t.Errorf("audit verify: %s", said)
	}
}
