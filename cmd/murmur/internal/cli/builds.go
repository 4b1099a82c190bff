package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/murmuration/murmuration/internal/client"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

func (a *app) buildCmd() *cobra.Command {
	var limit int32
	var service, reason string
	list := &cobra.Command{
		Use: "list", Short: "List builds, newest first", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			return a.buildList(ctx, c, service, limit)
		}),
	}
	list.Flags().StringVar(&service, "service", "", "only builds of this service")
	list.Flags().Int32Var(&limit, "limit", 20, "how many")
	cancel := &cobra.Command{
		Use: "cancel BUILD", Short: "End a build", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			resp, err := c.Releases.CancelBuild(ctx, connect.NewRequest(&pb.CancelBuildRequest{Id: args[0], Reason: reason}))
			if err != nil {
				return err
			}
			return a.show(resp.Msg.Build, func(w io.Writer) { fmt.Fprintf(w, "build %s: %s\n", args[0], buildState(resp.Msg.Build)) })
		}),
	}
	cancel.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return group("build", "Builds: how commits become releases", list, cancel,
		&cobra.Command{
			Use: "show BUILD", Short: "Show one build", Args: cobra.ExactArgs(1),
			RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
				resp, err := c.Releases.GetBuild(ctx, connect.NewRequest(&pb.GetBuildRequest{Id: args[0]}))
				if err != nil {
					return err
				}
				return a.show(resp.Msg.Build, func(w io.Writer) { printBuild(w, resp.Msg.Build) })
			}),
		},
		&cobra.Command{
			Use: "watch BUILD", Short: "Follow a build and its log; exits 1 when it fails", Args: cobra.ExactArgs(1),
			RunE: a.with(a.buildWatch),
		},
	)
}

func buildState(b *pb.Build) string {
	return strings.ToLower(strings.TrimPrefix(b.State.String(), "BUILD_STATE_"))
}

func printBuild(w io.Writer, b *pb.Build) {
	fmt.Fprintf(w, "build    %s of %s: %s\ncommit   %s on %s\nrepo     %s\nbuilder  %s\n", b.Id, dash(b.Service), buildState(b), b.Commit, clean(b.Ref), clean(b.Repo), clean(b.Builder))
	if b.ReleaseId != "" {
		fmt.Fprintf(w, "release  %s\n", b.ReleaseId)
	}
	if b.Error != "" {
		fmt.Fprintf(w, "error    %s\n", cleanText(b.Error))
	}
}

func (a *app) buildList(ctx context.Context, c *client.Client, service string, limit int32) error {
	resp, err := c.Releases.ListBuilds(ctx, connect.NewRequest(&pb.ListBuildsRequest{Service: service, Limit: limit}))
	if err != nil {
		return err
	}
	return a.show(resp.Msg, func(w io.Writer) {
		var rows [][]string
		for _, b := range resp.Msg.Builds {
			rows = append(rows, []string{b.Id, dash(b.Service), shortCommit(b.Commit), buildState(b), age(b.QueuedAt), dash(shortID(b.ReleaseId)), b.Error})
		}
		table(w, []string{"BUILD", "SERVICE", "COMMIT", "STATE", "AGE", "RELEASE", "ERROR"}, rows)
	})
}

func (a *app) buildWatch(ctx context.Context, c *client.Client, args []string) error {
	stream, err := c.Releases.WatchBuild(ctx, connect.NewRequest(&pb.WatchBuildRequest{Id: args[0]}))
	if err != nil {
		return err
	}
	defer stream.Close()
	var last *pb.Build
	for stream.Receive() {
		msg := stream.Msg()
		if msg.Build != nil {
			last = msg.Build
		}
		if a.json {
			if err := a.line(msg); err != nil {
				return err
			}
			continue
		}
		io.WriteString(a.Stdout, cleanText(string(msg.Log)))
	}
	if err := stream.Err(); err != nil {
		return err
	}
	if last == nil {
		return fmt.Errorf("build %s: the server sent nothing", args[0])
	}
	if !a.json {
		printBuild(a.Stdout, last)
	}
	if last.State != pb.BuildState_BUILD_STATE_PUBLISHED {
		return ErrQuiet
	}
	return nil
}
