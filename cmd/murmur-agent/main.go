// Command murmur-agent is the host's side of Murmuration: it fetches releases from its peers, verifies and stages
// them, makes them run and reports what came of it.
//
//	murmur-agent join --seeder https://seeder:7443 --token T --root /srv/murmur   once
//	murmur-agent run --root /srv/murmur                                           as a service
//	murmur-agent status | rollback SERVICE | resume SERVICE                       at any time, with no network
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "murmur-agent:", err)
		os.Exit(1)
	}
}

// run is the whole program but for the process around it.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	root := newRoot(getenv, stdout, stderr)
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}
