package ofrep

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/flagd"
	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/memstore"
	"github.com/murmuration/murmuration/internal/wire"
)

const adminPassword = "correct horse battery"

// world is a running flagd with an admin, who writes, and a token of a viewer, whose services read.
type world struct {
	tb     testing.TB
	url    string
	caFile string
	token  string // of the viewer
	http   *http.Client
	flags  murmurv1connect.FlagServiceClient
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	store := memstore.New()
	tb.Cleanup(func() { store.Close() })
	ca, err := identity.NewCA("test fleet", time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	auth, err := identity.New(identity.Config{Store: store, CA: ca, Password: identity.PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1}})
	if err != nil {
		tb.Fatal(err)
	}
	if err := auth.Init(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	server, err := flagd.New(flagd.Config{Store: store, Authority: auth, ID: "flagd-1", Dir: tb.TempDir(), DrainTimeout: 100 * time.Millisecond})
	if err != nil {
		tb.Fatal(err)
	}
	run(tb, auth.Run)
	run(tb, server.Run)
	<-server.Ready()
	w := &world{tb: tb, url: "https://" + server.Addr(), caFile: filepath.Join(tb.TempDir(), "ca.pem")}
	w.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true}}
	tb.Cleanup(w.http.CloseIdleConnections)
	if err := os.WriteFile(w.caFile, ca.CertPEM(), 0o600); err != nil {
		tb.Fatal(err)
	}
	w.logIn(auth)
	return w
}

// run runs a part until the test ends.
func run(tb testing.TB, part func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && ctx.Err() == nil {
			tb.Error(err)
		}
	})
}

// logIn makes the admin, and a viewer's token by their own right.
func (w *world) logIn(auth *identity.Authority) {
	w.tb.Helper()
	ctx := w.tb.Context()
	if _, err := auth.Bootstrap(ctx, "root", adminPassword); err != nil {
		w.tb.Fatal(err)
	}
	admin, _, _, err := auth.Login(ctx, "root", adminPassword)
	if err != nil {
		w.tb.Fatal(err)
	}
	asRoot := identity.WithCaller(ctx, identity.Caller{Name: "root", User: "root", Role: identity.Admin})
	if w.token, _, err = auth.CreateToken(asRoot, "shop", identity.Viewer, time.Hour); err != nil {
		w.tb.Fatal(err)
	}
	bearer := connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			req.Header().Set("Authorization", "Bearer "+admin)
			return next(ctx, req)
		}
	}))
	w.flags = murmurv1connect.NewFlagServiceClient(w.http, w.url, bearer)
}

// define writes the flags of testdata/flags.json.
func (w *world) define() {
	w.tb.Helper()
	text, err := os.ReadFile("testdata/flags.json")
	if err != nil {
		w.tb.Fatal(err)
	}
	var flags []feature.Flag
	if err := json.Unmarshal(text, &flags); err != nil {
		w.tb.Fatal(err)
	}
	for _, f := range flags {
		if _, err := w.flags.PutFlag(w.tb.Context(), connect.NewRequest(&murmurv1.PutFlagRequest{Flag: wire.Flag(f), Reason: "test"})); err != nil {
			w.tb.Fatalf("%s: %v", f.Key, err)
		}
	}
}

func (w *world) kill(key string) {
	w.tb.Helper()
	resp, err := w.flags.KillFlags(w.tb.Context(), connect.NewRequest(&murmurv1.KillFlagsRequest{Key: key, Reason: "on fire", WaitMs: -1}))
	if err != nil || len(resp.Msg.Keys) != 1 {
		w.tb.Fatalf("kill %s: %v, %v", key, resp, err)
	}
	w.reach(resp.Msg.Revision)
}

// reach waits until the server reads what was written.
func (w *world) reach(revision int64) {
	w.tb.Helper()
	for w.tb.Context().Err() == nil {
		if got := w.ask(http.MethodGet, "/v1/snapshot", "", nil); got.revision() >= revision {
			return
		}
	}
}

func (w *world) restore(key string) {
	w.tb.Helper()
	if _, err := w.flags.RestoreFlags(w.tb.Context(), connect.NewRequest(&murmurv1.RestoreFlagsRequest{Key: key, Reason: "test"})); err != nil {
		w.tb.Fatal(err)
	}
}

// answer is what a request got.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) revision() int64 {
	var n int64
	_ = json.Unmarshal([]byte(a.header.Get("X-Murmur-Revision")), &n) // 0 when there is none
	return n
}

// ask makes a request as the viewer; header may be nil and override.
func (w *world) ask(method, path, body string, header http.Header) answer {
	w.tb.Helper()
	req, err := http.NewRequestWithContext(w.tb.Context(), method, w.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		w.tb.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	req.Header.Set("Content-Type", "application/json")
	maps.Copy(req.Header, header)
	resp, err := w.http.Do(req)
	if err != nil {
		w.tb.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		w.tb.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, got}
}
