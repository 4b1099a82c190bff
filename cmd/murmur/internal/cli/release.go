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

func (a *app) releaseCmd() *cobra.Command {
	var limit int32
	list := &cobra.Command{
		Use: "list SERVICE", Short: "List releases, newest first", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			return a.releaseList(ctx, c, args[0], limit)
		}),
	}
	list.Flags().Int32Var(&limit, "limit", 20, "how many, at most 200")
	return group("release", "Releases: what was built and signed",
		a.releaseBuildCmd(), list,
		&cobra.Command{
			Use: "show SERVICE [RELEASE]", Short: "Show one release (default latest; also stable, previous, an id or commit prefix)",
			Args: cobra.RangeArgs(1, 2), RunE: a.with(a.releaseShow),
		},
		a.pinCmd("pin", "Keep a release whatever retention says", true),
		a.pinCmd("unpin", "Let retention remove a release again", false),
	)
}

func (a *app) pinCmd(use, about string, pinned bool) *cobra.Command {
	return &cobra.Command{
		Use: use + " SERVICE RELEASE", Short: about, Args: cobra.ExactArgs(2),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			resp, err := c.Releases.PinRelease(ctx, connect.NewRequest(&pb.PinReleaseRequest{Service: args[0], Id: args[1], Pinned: pinned}))
			if err != nil {
				return err
			}
			return a.show(resp.Msg.Release, func(w io.Writer) { printRelease(w, resp.Msg.Release) })
		}),
	}
}

func (a *app) releaseList(ctx context.Context, c *client.Client, service string, limit int32) error {
	resp, err := c.Releases.ListReleases(ctx, connect.NewRequest(&pb.ListReleasesRequest{Service: service, Limit: limit}))
	if err != nil {
		return err
	}
	return a.show(resp.Msg, func(w io.Writer) {
		var rows [][]string
		for _, r := range resp.Msg.Releases {
			rows = append(rows, []string{r.Id, shortCommit(r.Commit), releaseMarks(r), age(r.CreatedAt), size(r.ArtifactSize), r.Author, r.Subject})
		}
		table(w, []string{"RELEASE", "COMMIT", "STATE", "AGE", "SIZE", "AUTHOR", "SUBJECT"}, rows)
	})
}

func releaseMarks(r *pb.Release) string {
	var marks []string
	if r.Stable {
		marks = append(marks, "stable")
	}
	if r.Pinned {
		marks = append(marks, "pinned")
	}
	return dash(strings.Join(marks, ","))
}

func (a *app) releaseShow(ctx context.Context, c *client.Client, args []string) error {
	id := "latest"
	if len(args) == 2 {
		id = args[1]
	}
	resp, err := c.Releases.GetRelease(ctx, connect.NewRequest(&pb.GetReleaseRequest{Service: args[0], Id: id}))
	if err != nil {
		return err
	}
	return a.show(resp.Msg.Release, func(w io.Writer) { printRelease(w, resp.Msg.Release) })
}

func printRelease(w io.Writer, r *pb.Release) {
	fmt.Fprintf(w, "release   %s of %s (%s)\ncommit    %s on %s, %s ago\nauthor    %s\nsubject   %s\n", r.Id, r.Service, releaseMarks(r), r.Commit, clean(r.Ref), age(r.CreatedAt), clean(r.Author), clean(r.Subject))
	fmt.Fprintf(w, "artifact  %s\n          %s (%s unpacked), %d files, %d chunks\nsigned    by key %s\n", r.ArtifactDigest, size(r.ArtifactSize), size(r.RawSize), r.Files, r.Chunks, r.SignedBy)
	if len(r.Changes) == 0 {
		return
	}
	fmt.Fprintf(w, "changes   %d commits since the release before\n", len(r.Changes))
	var rows [][]string
	for _, ch := range r.Changes {
		rows = append(rows, []string{"  " + shortCommit(ch.Commit), ch.Author, dash(strings.Join(ch.Reviewers, ", ")), fmt.Sprintf("+%d -%d", ch.Added, ch.Removed), ch.Subject})
	}
	table(w, []string{"  COMMIT", "AUTHOR", "REVIEWED BY", "LINES", "SUBJECT"}, rows)
}
