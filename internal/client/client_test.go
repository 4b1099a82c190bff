package client

import (
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"
)

// fakeServer keeps one artifact and breaks as it is told.
type fakeServer struct {
	murmurv1connect.UnimplementedReleaseServiceHandler
	murmurv1connect.UnimplementedIdentityServiceHandler

	mu     sync.Mutex
	got    []byte
	puts   int
	size   int64
	tokens []string
	// breakAfter ends each PUT after that many bytes, the first `breaks` times.
	breakAfter int64
	breaks     int
	status     int // answered to every PUT when not 0
}

func (s *fakeServer) BeginUpload(_ context.Context, req *connect.Request[murmurv1.BeginUploadRequest]) (*connect.Response[murmurv1.BeginUploadResponse], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = req.Msg.Size
	return connect.NewResponse(&murmurv1.BeginUploadResponse{Offset: int64(len(s.got)), Complete: int64(len(s.got)) == s.size}), nil
}

func (s *fakeServer) WhoAmI(_ context.Context, req *connect.Request[murmurv1.WhoAmIRequest]) (*connect.Response[murmurv1.WhoAmIResponse], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, req.Header().Get("Authorization"))
	return connect.NewResponse(&murmurv1.WhoAmIResponse{Version: "v9"}), nil
}

func (s *fakeServer) put(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	if s.status != 0 {
		http.Error(w, "no room for this artifact", s.status)
		return
	}
	offset, err := strconv.ParseInt(r.Header.Get(UploadOffset), 10, 64)
	if err != nil || offset != int64(len(s.got)) {
		http.Error(w, "wrong offset", http.StatusConflict)
		return
	}
	body := io.Reader(r.Body)
	if s.puts <= s.breaks {
		body = io.LimitReader(r.Body, s.breakAfter)
	}
	data, _ := io.ReadAll(body)
	s.got = append(s.got, data...)
	if s.puts <= s.breaks {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusNoContent)
}

// start serves over TLS on loopback and returns a context for it.
func (s *fakeServer) start(t *testing.T) Context {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(murmurv1connect.NewReleaseServiceHandler(s))
	mux.Handle(murmurv1connect.NewIdentityServiceHandler(s))
	mux.HandleFunc("PUT /v1/artifacts/{digest}", s.put)
	mux.HandleFunc("GET /elsewhere", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://evil.example/", http.StatusFound)
	})
	srv := httptest.NewUnstartedServer(mux)
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	return Context{Servers: []string{srv.URL}, CA: string(ca), Token: "mt1.id.secret"}
}

func newClient(t *testing.T, cfg Context) *Client {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// deadAddress is where nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "https://" + l.Addr().String()
}

func whoAmI(t *testing.T, c *Client) error {
	_, err := c.Identity.WhoAmI(t.Context(), connect.NewRequest(&murmurv1.WhoAmIRequest{}))
	return err
}

func TestBearerIsSent(t *testing.T) {
	s := &fakeServer{}
	if err := whoAmI(t, newClient(t, s.start(t))); err != nil {
		t.Fatal(err)
	}
	if len(s.tokens) != 1 || s.tokens[0] != "Bearer mt1.id.secret" {
		t.Errorf("the server got %q", s.tokens)
	}
}

func TestFailover(t *testing.T) {
	s := &fakeServer{}
	cfg := s.start(t)
	cfg.Servers = append([]string{deadAddress(t)}, cfg.Servers...)
	c := newClient(t, cfg)
	for range 2 {
		if err := whoAmI(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.base.last.Load(); got != 1 {
		t.Errorf("the client stays with server %d, want the one that answers", got)
	}
}

func TestExplain(t *testing.T) {
	s := &fakeServer{}
	good := s.start(t)
	dead := deadAddress(t)
	for _, tc := range []struct {
		name string
		cfg  Context
		want []string
	}{
		{"nobody listens", Context{Servers: []string{dead}}, []string{"cannot reach " + dead, "connection refused", "murmur up"}},
		{"no CA", Context{Servers: good.Servers}, []string{"MURMUR_CA", good.Servers[0]}},
		{"unknown name", Context{Servers: []string{"https://murmur.invalid:7700"}}, []string{"cannot reach https://murmur.invalid:7700"}},
		{"wrong name", Context{Servers: []string{strings.Replace(good.Servers[0], "127.0.0.1", "localhost", 1)}, CA: good.CA}, []string{"localhost"}},
	} {
		err := whoAmI(t, newClient(t, tc.cfg))
		got := Explain(err)
		for _, want := range tc.want {
			if err == nil || !strings.Contains(got, want) {
				t.Errorf("%s: %q does not contain %q (from %v)", tc.name, got, want, err)
			}
		}
	}
	if got := Explain(connect.NewError(connect.CodePermissionDenied, errors.New("not allowed: dev is developer"))); !strings.HasPrefix(got, "not allowed: dev is developer") || !strings.Contains(got, "whoami") {
		t.Errorf("denied: %q", got)
	}
	if got := Explain(fmt.Errorf("start the rollout: %w", connect.NewError(connect.CodeNotFound, errors.New("no such release")))); got != "start the rollout: no such release" {
		t.Errorf("wrapped: %q", got)
	}
	if got := Explain(nil); got != "" {
		t.Errorf("nil: %q", got)
	}
}

func TestRedirectsAreRefused(t *testing.T) {
	c := newClient(t, (&fakeServer{}).start(t))
	resp, err := c.HTTP().Get(c.URL() + "/elsewhere")
	if err == nil {
		resp.Body.Close()
		t.Fatal("a redirect was followed")
	}
	if !strings.Contains(err.Error(), "evil.example") || strings.Contains(err.Error(), "secret") {
		t.Errorf("error: %v", err)
	}
}

// artifact is a file of n bytes and its digest.
func artifact(t *testing.T, n int) (path, digest string, data []byte) {
	t.Helper()
	data = make([]byte, n)
	for i := range data {
		data[i] = byte(i * 7)
	}
	path = filepath.Join(t.TempDir(), "a.tar.zst")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, fmt.Sprintf("sha256:%x", sha256.Sum256(data)), data
}

func TestUploadResumes(t *testing.T) {
	s := &fakeServer{breaks: 2, breakAfter: 100 << 10}
	c := newClient(t, s.start(t))
	path, digest, data := artifact(t, 1<<20)
	s.got = append(s.got, data[:1000]...) // of an earlier upload
	var last int64
	err := c.UploadArtifact(t.Context(), digest, path, func(done, total int64) {
		if total != int64(len(data)) || done < 1000 {
			t.Errorf("progress %d of %d", done, total)
		}
		last = done
	})
	if err != nil {
		t.Fatal(err)
	}
	if string(s.got) != string(data) || last != int64(len(data)) || s.puts != 3 {
		t.Errorf("the server has %d of %d bytes after %d PUTs, progress ended at %d", len(s.got), len(data), s.puts, last)
	}
	if err := c.UploadArtifact(t.Context(), digest, path, nil); err != nil || s.puts != 3 {
		t.Errorf("uploading it again: %v, %d PUTs; want none", err, s.puts)
	}
}

func TestUploadGivesUpOnRefusal(t *testing.T) {
	s := &fakeServer{status: http.StatusInsufficientStorage}
	c := newClient(t, s.start(t))
	path, digest, _ := artifact(t, 1000)
	err := c.UploadArtifact(t.Context(), digest, path, nil)
	if e, ok := errors.AsType[*StatusError](err); !ok || e.Status != http.StatusInsufficientStorage || s.puts != 1 {
		t.Errorf("UploadArtifact: %v after %d PUTs", err, s.puts)
	}
	if got := Explain(err); !strings.Contains(got, "no room for this artifact") {
		t.Errorf("Explain: %q", got)
	}
}

func TestUploadEndsWithItsContext(t *testing.T) {
	s := &fakeServer{}
	c := newClient(t, s.start(t))
	path, digest, _ := artifact(t, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.UploadArtifact(ctx, digest, path, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("UploadArtifact: %v", err)
	}
}
