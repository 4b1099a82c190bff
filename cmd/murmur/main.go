// Command murmur is the operator's binary: the command line, and every server role (up, seeder, demo).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/murmuration/murmuration/cmd/murmur/internal/cli"
	"github.com/murmuration/murmuration/internal/build"
	"github.com/murmuration/murmuration/internal/client"
)

func main() {
	build.MaybeSandboxChild(os.Args)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(exitCode(err, os.Stderr))
}

// run is the whole program but for the process around it.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) error {
	root := cli.New(cli.Env{Stdin: stdin, Stdout: stdout, Stderr: stderr, Getenv: getenv})
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// exitCode says what went wrong: 0 nothing, 1 it failed, 2 the command line was not understood.
func exitCode(err error, stderr io.Writer) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, cli.ErrQuiet):
		return 1
	case errors.Is(err, context.Canceled):
		return 130
	}
	fmt.Fprintln(stderr, "murmur:", client.Explain(err))
	if errors.Is(err, cli.ErrUsage) {
		return 2
	}
	return 1
}
