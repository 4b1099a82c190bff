package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/murmuration/murmuration/internal/client"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

// flagKillCmd never asks and checks nothing: at 4 am it must only work.
func (a *app) flagKillCmd() *cobra.Command {
	var req pb.KillFlagsRequest
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "kill (KEY | --tag TAG) --reason TEXT", Short: "Turn a feature off for everyone, now, whatever its flag says", Args: cobra.MaximumNArgs(1),
		Long: "Turn a feature off for everyone, now, whatever its flag says: it answers the flag's off value until\n" +
			"`murmur flag restore`. Nothing is asked. It returns when the kill is on disk, and says how many of the\n" +
			"connected clients confirmed within --wait that they use it.",
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var err error
			if req.Key, err = keyOrTag(args, req.Tag); err != nil {
				return err
			}
			req.WaitMs = int32(wait.Milliseconds())
			if req.WaitMs <= 0 {
				req.WaitMs = -1
			}
			resp, err := c.Flags.KillFlags(ctx, connect.NewRequest(&req))
			if err != nil {
				return err
			}
			return a.show(resp.Msg, func(w io.Writer) { printKill(w, resp.Msg) })
		}),
	}
	cmd.Flags().StringVar(&req.Tag, "tag", "", "kill every flag with this tag")
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for everyone to read")
	cmd.Flags().DurationVar(&wait, "wait", time.Second, "how long to wait for clients to confirm; 0 is not at all")
	return cmd
}

func keyOrTag(args []string, tag string) (string, error) {
	if (len(args) == 1) == (tag != "") {
		return "", fmt.Errorf("%w: name one flag, or a tag with --tag", ErrUsage)
	}
	if tag != "" {
		return "", nil
	}
	return args[0], nil
}

func printKill(w io.Writer, m *pb.KillFlagsResponse) {
	if len(m.Keys) == 0 {
		fmt.Fprintln(w, "no flag has this tag: nothing was killed")
		return
	}
	fmt.Fprintf(w, "killed: %s (revision %d)\n", clean(strings.Join(m.Keys, ", ")), m.Revision)
	fmt.Fprintf(w, "%d of %d connected clients have confirmed", m.Confirmed, m.Clients)
	if m.Confirmed < m.Clients {
		fmt.Fprint(w, "; the others get it as soon as they can be reached")
	}
	fmt.Fprintln(w)
	if len(m.Keys) == 1 {
		fmt.Fprintf(w, "the way back: murmur flag restore %s\n", m.Keys[0])
	}
}

func (a *app) flagRestoreCmd() *cobra.Command {
	var req pb.RestoreFlagsRequest
	cmd := &cobra.Command{
		Use: "restore (KEY | --tag TAG)", Short: "End a kill: the exact state from before", Args: cobra.MaximumNArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var err error
			if req.Key, err = keyOrTag(args, req.Tag); err != nil {
				return err
			}
			killed, err := killedFlags(ctx, c, req.Key, req.Tag)
			if err != nil {
				return err
			}
			if len(killed) == 0 {
				fmt.Fprintln(a.Stderr, "it is not killed: nothing to restore")
				return a.show(&pb.RestoreFlagsResponse{}, func(io.Writer) {})
			}
			for _, f := range killed {
				fmt.Fprintf(a.Stderr, "%s was killed by %s %s ago (%s); it goes back to %s\n", f.Key, clean(f.Killed.By), age(f.Killed.When), clean(dash(f.Killed.Why)), percent(f.DialNow))
			}
			if ok, err := a.confirm("Restore?"); !ok {
				return err
			}
			resp, err := c.Flags.RestoreFlags(ctx, connect.NewRequest(&req))
			if err != nil {
				return err
			}
			return a.show(resp.Msg, func(w io.Writer) { fmt.Fprintf(w, "restored: %s\n", clean(dash(strings.Join(resp.Msg.Keys, ", ")))) })
		}),
	}
	cmd.Flags().StringVar(&req.Tag, "tag", "", "restore every killed flag with this tag")
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for the record")
	return a.changing(cmd)
}

// killedFlags are the killed ones among those named by key or tag.
func killedFlags(ctx context.Context, c *client.Client, key, tag string) ([]*pb.Flag, error) {
	if key != "" {
		f, err := getFlag(ctx, c, key)
		if err != nil || f.Killed == nil {
			return nil, err
		}
		return []*pb.Flag{f}, nil
	}
	resp, err := c.Flags.ListFlags(ctx, connect.NewRequest(&pb.ListFlagsRequest{Tag: tag, KilledOnly: true}))
	if err != nil {
		return nil, err
	}
	return resp.Msg.Flags, nil
}

func (a *app) flagDeleteCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "delete KEY", Short: "Remove a flag: services that still read it get their own default", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			f, err := getFlag(ctx, c, args[0])
			if err != nil {
				return err
			}
			usage, err := c.Flags.FlagUsage(ctx, connect.NewRequest(&pb.FlagUsageRequest{Key: f.Key}))
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Stderr, "%s is at %s\n", f.Key, clean(flagState(f)))
			printUsage(a.Stderr, usage.Msg.Uses)
			if ok, err := a.confirm("Delete it?"); !ok {
				return err
			}
			if _, err = c.Flags.DeleteFlag(ctx, connect.NewRequest(&pb.DeleteFlagRequest{Key: f.Key, Version: f.Version, Reason: reason})); err != nil {
				return a.conflict(f.Key, err)
			}
			return a.show(&pb.DeleteFlagResponse{}, func(w io.Writer) {
				fmt.Fprintf(w, "%s is deleted; its history stays: murmur flag history %s\n", f.Key, f.Key)
			})
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return a.changing(cmd)
}
