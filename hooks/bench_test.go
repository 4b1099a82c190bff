package hooks

import (
	"io"
	"log/slog"
	"strings"
	"testing"
)

// BenchmarkPostReceive is what a push waits for: everything the hook does but starting this program and the drainer.
func BenchmarkPostReceive(b *testing.B) {
	dev, bare := newPair(b, Options{})
	dev.git("push", "-q", "origin", "main")
	id := dev.git("rev-parse", "HEAD")
	n := 0
	for b.Loop() {
		if n++; n > 500 {
			b.Fatal("the queue is full; run with -benchtime 200x")
		}
		err := Run(b.Context(), Call{
			Name: "post-receive", Stdin: strings.NewReader(zeroID + " " + id + " refs/heads/main\n"), Stderr: io.Discard, Dir: bare.dir,
			Log: slog.New(slog.DiscardHandler), Spawn: func(string, []string, string, string) error { return nil },
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
