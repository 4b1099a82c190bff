package etcdstore_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/murmuration/murmuration/internal/etcdstore"
	"github.com/murmuration/murmuration/internal/etcdstore/embedded"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/storetest"
)

// shared is the one server of this test process; every test uses a prefix of its own on it. Tests that stop
// a server start another.
var (
	shared   *embedded.Server
	prefixes atomic.Int64
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "etcdstore-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	flag.Parse()
	measured := flag.Lookup("test.bench").Value.String() != "" // then on disk, as in production
	shared, err = embedded.Start(context.Background(), embedded.Config{
		Dir: filepath.Join(dir, "store"), NoSync: !measured,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer shared.Stop()
	return m.Run()
}

// config is that of a store with a prefix nobody else uses.
func config(tb testing.TB, server *embedded.Server) etcdstore.Config {
	return etcdstore.Config{
		Endpoints: server.Endpoints(),
		Prefix:    fmt.Sprintf("/test-%d/", prefixes.Add(1)),
		Logger:    slog.New(slog.NewTextHandler(tb.Output(), nil)),
	}
}

func open(tb testing.TB, cfg etcdstore.Config) *etcdstore.Store {
	tb.Helper()
	s, err := etcdstore.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(tb testing.TB) record.Store { return open(tb, config(tb, shared)) })
}
