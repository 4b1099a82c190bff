package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/murmuration/murmuration/internal/durable"
)

// socketPath is the control socket; its mode lets only the agent's own user in.
func socketPath(root string) string { return filepath.Join(root, ownDir, "agent.sock") }

// listenControl opens the socket. The lock is held, so a socket that is there is a dead agent's.
func (a *Agent) listenControl() (net.Listener, error) {
	if err := durable.Remove(a.root, ownDir+"/agent.sock"); err != nil {
		return nil, fmt.Errorf("remove the old control socket: %w", err)
	}
	l, err := listenUnix(a.cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	if err := a.root.Chmod(ownDir+"/agent.sock", 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("open the control socket: %w", err), l.Close())
	}
	return l, nil
}

// listenUnix binds by way of /proc/self/fd: a socket's address holds 107 bytes, a folder's path may not fit.
func listenUnix(root string) (net.Listener, error) {
	var l net.Listener
	err := viaFolder(root, func(short string) (err error) {
		l, err = net.Listen("unix", short)
		return err
	})
	return l, err
}

func viaFolder(root string, fn func(short string) error) error {
	dir, err := os.Open(filepath.Dir(socketPath(root)))
	if err != nil {
		return err
	}
	defer dir.Close()
	return fn(fmt.Sprintf("/proc/self/fd/%d/agent.sock", dir.Fd()))
}

// serveControl answers local commands until ctx ends.
func (a *Agent) serveControl(ctx context.Context, l net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		var s Status
		if err := a.ask(r.Context(), func(l *loop) { s = l.status() }); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s) // the caller is gone if this fails
	})
	mux.HandleFunc("POST /rollback/{service}", a.command(func(l *loop, r *http.Request, done chan<- error) {
		l.rollback(r.PathValue("service"), r.FormValue("to"), r.FormValue("reason"), done)
	}))
	mux.HandleFunc("POST /resume/{service}", a.command(func(l *loop, r *http.Request, done chan<- error) {
		l.unpin(r.PathValue("service"), done)
	}))
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) { a.Metrics(w, r) })
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		a.log.Error("control socket", "err", err)
	}
}

func (a *Agent) command(fn func(*loop, *http.Request, chan<- error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		if err := r.ParseForm(); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		done := make(chan error, 1)
		a.do(r.Context(), func(l *loop) { fn(l, r, done) })
		select {
		case err := <-done:
			if err != nil {
				http.Error(w, err.Error(), http.StatusConflict)
			}
		case <-r.Context().Done():
		}
	}
}

// Local speaks to the agent of a folder: through its socket if one runs, otherwise by doing the work itself
// under the folder's lock. Nothing here needs a network.
type Local struct{ cfg Config }

// NewLocal returns a Local for the folder cfg.Root; of the rest only what runs services matters.
func NewLocal(cfg Config) (*Local, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(cfg.Root, ownDir)); err != nil {
		return nil, fmt.Errorf("%w: %s is not an agent's folder: %w", ErrConfig, cfg.Root, err)
	}
	return &Local{cfg: cfg}, nil
}

// errNobody says that no agent answers on the socket.
var errNobody = errors.New("no agent answers")

func (l *Local) call(ctx context.Context, method, path string, form map[string][]string, into any) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var c net.Conn
		err := viaFolder(l.cfg.Root, func(short string) (err error) {
			c, err = new(net.Dialer).DialContext(ctx, "unix", short)
			return err
		})
		if err != nil {
			return nil, errors.Join(errNobody, err)
		}
		return c, nil
	}}}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, nil)
	if err != nil {
		return err
	}
	q := req.URL.Query()
	maps.Copy(q, form)
	req.URL.RawQuery = q.Encode()
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s", trimLine(body))
	case into == nil:
		return nil
	}
	return json.Unmarshal(body, into)
}

// Status returns what the agent, or the disk, says.
func (l *Local) Status(ctx context.Context) (Status, error) {
	var s Status
	err := l.call(ctx, http.MethodGet, "/status", nil, &s)
	if errors.Is(err, errNobody) {
		return l.statusOffline()
	}
	return s, err
}

// Rollback takes a service back to the release before, or to the one named, and returns when it is healthy. The
// control plane is held off until it wants another release than now, or until Resume.
func (l *Local) Rollback(ctx context.Context, service, to, reason string) error {
	err := l.call(ctx, http.MethodPost, "/rollback/"+service, map[string][]string{"to": {to}, "reason": {reason}}, nil)
	if !errors.Is(err, errNobody) {
		return err
	}
	return l.offline(ctx, service, func(u *unit) error {
		to, err := goBackTo(u.journal, to, u.dir.Has)
		if err != nil {
			return err
		}
		if err := u.pin(u.journal.Active, to, reason); err != nil {
			return err
		}
		u.activate(ctx, ctx, request{Release: to, WayBack: true})
		return u.verdict(to)
	})
}

// Resume ends the hold of a local rollback: the control plane is obeyed again.
func (l *Local) Resume(ctx context.Context, service string) error {
	err := l.call(ctx, http.MethodPost, "/resume/"+service, nil, nil)
	if !errors.Is(err, errNobody) {
		return err
	}
	return l.offline(ctx, service, func(u *unit) error { u.unpin(); return nil })
}

// offline opens the service as an agent would, does the work and leaves the service running.
func (l *Local) offline(ctx context.Context, service string, fn func(*unit) error) error {
	root, lock, err := openRoot(l.cfg.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	defer lock.Close()
	if _, err := root.Stat(service); err != nil {
		return fmt.Errorf("%w: no service %q on this host", ErrLocal, service)
	}
	u, err := openUnit(l.cfg, root, service, func(snapshot) {})
	if err != nil {
		return err
	}
	defer u.close()
	if err := u.recover(ctx); err != nil {
		return err
	}
	return fn(u)
}

// statusOffline reads the disk and changes nothing.
func (l *Local) statusOffline() (Status, error) {
	root, err := os.OpenRoot(l.cfg.Root)
	if err != nil {
		return Status{}, err
	}
	defer root.Close()
	var s Status
	if d, err := loadMemory(root); err == nil {
		s.Term, s.Revision = d.GetOrder().GetTerm(), d.GetOrder().GetRevision()
	}
	names, err := installed(root)
	if err != nil {
		return s, err
	}
	for _, name := range names {
		st, err := onDisk(root, name)
		if err != nil {
			return s, err
		}
		s.Services = append(s.Services, st)
	}
	sortServices(s.Services)
	s.DiskFree, _, err = durable.FreeSpace(l.cfg.Root)
	return s, err
}

func trimLine(b []byte) string {
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return string(b)
}
