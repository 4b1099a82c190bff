// Command example is a small web service that reads flags and obeys a mode, to copy from.
//
//	go run ./darkmode/example -listen 127.0.0.1:8080 -flagd http://127.0.0.1:8443 -copy /tmp/example.flags
//	curl '127.0.0.1:8080/hello?user=ann'    the flag greeting.v2 decides the greeting
//	curl -X POST 127.0.0.1:8080/notes       refused while example.mode is read-only
//	curl 127.0.0.1:8080/healthz             the state of the flags, in any mode
//
// It starts and answers without flagd too. The token is read from DARKMODE_TOKEN.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/murmuration/murmuration/darkmode"
	"github.com/murmuration/murmuration/darkmode/modes"
)

// shipped is the state for a first start without a network.
//
//go:embed flags.json
var shipped []byte

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "example:", err)
		stop()
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, getenv func(string) string, out io.Writer) error {
	set := flag.NewFlagSet("example", flag.ContinueOnError)
	listen := set.String("listen", "127.0.0.1:8080", "address to serve on")
	servers := set.String("flagd", "", "base URLs of flagd, separated by commas; empty works offline")
	file := set.String("copy", "", "file for the disk copy of the flags")
	if err := set.Parse(args); err != nil {
		return err
	}
	cfg := darkmode.Config{Name: "example", Token: getenv("DARKMODE_TOKEN"), CopyFile: *file, Bootstrap: shipped, Logger: slog.New(slog.NewTextHandler(out, nil))}
	if *servers != "" {
		cfg.Servers = strings.Split(*servers, ",")
	}
	flags := darkmode.New(cfg)
	flags.Start(ctx)
	web := &http.Server{Handler: handler(flags), ReadHeaderTimeout: 5 * time.Second}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return errors.Join(err, flags.Close())
	}
	fmt.Fprintf(out, "listening on http://%s\n", l.Addr())
	stopped := context.AfterFunc(ctx, func() {
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = web.Shutdown(drain) // what has not ended by then is cut
	})
	defer stopped()
	if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(err, flags.Close())
	}
	return flags.Close()
}

// handler is the service.
func handler(flags *darkmode.Client) http.Handler {
	greetingV2, mode := flags.BoolFlag("greeting.v2", false), flags.ModeFlag("example.mode")
	var notes atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, r *http.Request) {
		user := r.URL.Query().Get("user")
		if greetingV2.On(user) {
			fmt.Fprintf(w, "Welcome back, %q!\n", user)
			return
		}
		fmt.Fprintf(w, "hello %q\n", user)
	})
	mux.HandleFunc("POST /notes", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "note %d kept\n", notes.Add(1))
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		s := flags.Status()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"flags_from": s.Source.String(), "revision": s.Revision, "stale": s.Stale})
	})
	m := modes.New(modes.Config{
		Mode:   func(*http.Request) string { return mode.Get("") },
		Exempt: func(r *http.Request) bool { return r.URL.Path == "/healthz" },
	})
	return m.Wrap(mux)
}
