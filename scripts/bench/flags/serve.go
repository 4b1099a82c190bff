package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/murmuration/murmuration/flagd"
	"github.com/murmuration/murmuration/internal/etcdstore"
	"github.com/murmuration/murmuration/internal/etcdstore/embedded"
	"github.com/murmuration/murmuration/internal/identity"
)

// serveArg as first argument makes this program one of its own subjects.
const serveArg = "serve"

// ready is what a subject prints once it serves.
type ready struct {
	Plain string   `json:"plain"` // address of plain HTTP
	TLS   string   `json:"tls"`
	Etcd  []string `json:"etcd"`
	CA    string   `json:"ca"`
	Admin string   `json:"admin"` // token
	Read  string   `json:"read"`  // token of a viewer
}

// serve is the subject's side: murmur, bare, bare-json or etcd.
func serve(ctx context.Context, args []string) error {
	f := flag.NewFlagSet(serveArg, flag.ContinueOnError)
	what := f.String("what", "", "murmur, bare, bare-json or etcd")
	dir := f.String("dir", "", "folder of the subject")
	etcd := f.String("etcd", "", "endpoint of etcd")
	listen := f.String("listen", "127.0.0.1:0", "address of TLS")
	answers := f.String("answers", "", "file with the answers of bare subjects: path, tab, body")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	go obey(cancel)
	switch *what {
	case "etcd":
		return serveEtcd(ctx, *dir)
	case "murmur":
		return serveMurmur(ctx, *dir, *etcd, *listen)
	}
	fixed, err := readAnswers(*answers)
	if err != nil {
		return err
	}
	return servePlain(ctx, bareHandler(fixed, *what == "bare-json"), ready{})
}

// obey frees unused memory for every line on standard input, and ends the subject with the input: the parent closed
// it, or is gone.
func obey(end func()) {
	defer end()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		debug.FreeOSMemory()
		fmt.Println("freed")
	}
}

func serveEtcd(ctx context.Context, dir string) error {
	server, err := embedded.Start(ctx, embedded.Config{Dir: dir})
	if err != nil {
		return err
	}
	defer server.Stop()
	if err := announce(ready{Etcd: server.Endpoints()}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

const adminPassword = "correct horse battery"

func serveMurmur(ctx context.Context, dir, etcd, listen string) error {
	store, err := etcdstore.Open(ctx, etcdstore.Config{Endpoints: []string{etcd}})
	if err != nil {
		return err
	}
	defer store.Close()
	ca, err := identity.LoadOrNewCA(filepath.Join(dir, "ca.pem"), "bench")
	if err != nil {
		return err
	}
	auth, err := identity.New(identity.Config{Store: store, CA: ca, Password: identity.PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1}})
	if err != nil {
		return err
	}
	if err := auth.Init(ctx); err != nil {
		return err
	}
	server, err := flagd.New(flagd.Config{Store: store, Authority: auth, ID: "flagd-1", Dir: filepath.Join(dir, "flagd"), Listen: listen})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return auth.Run(ctx) })
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error {
		<-server.Ready()
		r := ready{TLS: server.Addr(), CA: string(ca.CertPEM())}
		if err := tokens(ctx, auth, &r); err != nil {
			return err
		}
		return servePlain(ctx, server.Handler(), r)
	})
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// tokens makes what the parent writes and reads with.
func tokens(ctx context.Context, auth *identity.Authority, r *ready) error {
	if _, err := auth.Bootstrap(ctx, "root", adminPassword); err != nil {
		return err
	}
	var err error
	if r.Admin, _, _, err = auth.Login(ctx, "root", adminPassword); err != nil {
		return err
	}
	asRoot := identity.WithCaller(ctx, identity.Caller{Name: "root", User: "root", Role: identity.Admin})
	r.Read, _, err = auth.CreateToken(asRoot, "bench-"+strconv.FormatInt(time.Now().UnixNano(), 36), identity.Viewer, 24*time.Hour)
	return err
}

// bareHandler answers what it was given, by path.
func bareHandler(fixed map[string][]byte, throughJSON bool) http.Handler {
	decoded := map[string]any{}
	for path, body := range fixed {
		var v any
		if json.Unmarshal(body, &v) == nil {
			decoded[path] = v
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		if !throughJSON {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = w.Write(fixed[r.URL.Path])
			return
		}
		var request struct {
			Context map[string]any `json:"context"`
		}
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(decoded[r.URL.Path])
	})
}

// servePlain serves over plain HTTP, with the limits that flagd sets on its own listener, and announces it.
func servePlain(ctx context.Context, h http.Handler, r ready) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	r.Plain = ln.Addr().String()
	if err := announce(r); err != nil {
		return err
	}
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func announce(r ready) error { return json.NewEncoder(os.Stdout).Encode(r) }

func readAnswers(file string) (map[string][]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	fixed := map[string][]byte{}
	for line := range strings.Lines(string(text)) {
		path, body, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		fixed[path] = []byte(body)
	}
	return fixed, nil
}

// process is a running subject.
type process struct {
	ready
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// spawn starts this program as a subject and waits until it serves.
func spawn(args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{serveArg}, args...)...)
	cmd.Stderr = os.Stderr
	p := &process{cmd: cmd}
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	line, err := p.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &p.ready)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%v did not start: %w", args, err), p.stop())
	}
	return p, nil
}

// stop asks the subject to end, and kills it if it does not.
func (p *process) stop() error {
	_ = p.in.Close()
	timer := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	return p.cmd.Wait()
}

// crash kills the subject.
func (p *process) crash() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it says that it was killed
}

// settle has the subject give back the memory it does not use.
func (p *process) settle() error {
	if _, err := p.in.Write([]byte("\n")); err != nil {
		return err
	}
	_, err := p.out.ReadBytes('\n')
	return err
}

// memory is a line of the subject's /proc status in MiB, for example VmRSS or VmHWM.
func (p *process) memory(line string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, line+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc status", line)
}

// cpu is the processor time that the subject has used, to 10 ms.
func (p *process) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from the third field of proc(5) on
	if len(fields) < 13 {
		return 0, errors.New("/proc stat is too short")
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}
