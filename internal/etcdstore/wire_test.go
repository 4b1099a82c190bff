package etcdstore_test

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/murmuration/murmuration/internal/etcdstore"
)

// wire is a connection to etcd that a test can cut and restore.
type wire struct {
	tb           testing.TB
	path, target string

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
}

// cutter puts a wire between cfg and its server.
func cutter(tb testing.TB, cfg *etcdstore.Config) *wire {
	tb.Helper()
	w := &wire{
		tb: tb, path: filepath.Join(tb.TempDir(), "w"), target: strings.TrimPrefix(cfg.Endpoints[0], "unix://"),
	}
	cfg.Endpoints = []string{"unix://" + w.path}
	w.restore()
	tb.Cleanup(w.cut)
	return w
}

func (w *wire) restore() {
	w.tb.Helper()
	l, err := net.Listen("unix", w.path)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listener = l
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go w.join(l, near)
		}
	}()
}

// join copies both ways until either side is closed.
func (w *wire) join(l net.Listener, near net.Conn) {
	defer near.Close()
	far, err := net.Dial("unix", w.target)
	if err != nil {
		return
	}
	defer far.Close()
	w.mu.Lock()
	if w.listener != l { // cut meanwhile
		w.mu.Unlock()
		return
	}
	w.conns = append(w.conns, near, far)
	w.mu.Unlock()
	go func() {
		_, _ = io.Copy(far, near) // ends when the wire is cut
		_ = far.Close()
	}()
	_, _ = io.Copy(near, far)
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.listener == nil {
		return
	}
	_ = w.listener.Close() // a wire that is cut has nothing to report
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.listener, w.conns = nil, nil
}

// compact forgets all history before rev.
func compact(tb testing.TB, endpoints []string, rev int64) {
	tb.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints})
	if err != nil {
		tb.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Compact(tb.Context(), rev); err != nil {
		tb.Fatal(err)
	}
}
