// Command hello is the service that the tests deploy: it answers with its version and restarts without dropping
// a connection.
//
// It takes its listening socket from whoever starts it (systemd's LISTEN_FDS protocol, which the agent
// speaks), and on SIGTERM it stops accepting, finishes what it has, and ends. Between the old process and
// the new one, connections wait in the socket's queue.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// version is set when it is built: -ldflags "-X main.version=v2".
var version = "v1"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	l, err := listener()
	if err != nil {
		return err
	}
	var open sync.WaitGroup
	srv := &http.Server{Handler: routes(), ReadHeaderTimeout: 5 * time.Second, ConnState: func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Done()
		}
	}}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	log.Printf("hello %s serves on %s", version, l.Addr())
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	// Accept no more, answer what was accepted, then end. Server.Shutdown alone would drop a request that it is
	// just reading. A client that never goes away does not hold the agent up: it kills after stop_timeout.
	l.Close()
	<-served
	srv.SetKeepAlivesEnabled(false)
	open.Wait()
	return nil
}

// listener takes the first passed socket, or opens its own when nobody passed one.
func listener() (net.Listener, error) {
	if os.Getenv("LISTEN_PID") != fmt.Sprint(os.Getpid()) || os.Getenv("LISTEN_FDS") == "" {
		return net.Listen("tcp", "127.0.0.1:8080")
	}
	f := os.NewFile(3, "listen")
	defer f.Close()
	return net.FileListener(f)
}

func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "hello from %s, release %s\n", version, os.Getenv("MURMUR_RELEASE"))
	})
	return mux
}
