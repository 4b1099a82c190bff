package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/murmuration/murmuration/internal/client"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

func (a *app) serviceCmd() *cobra.Command {
	var reason string
	lock := &cobra.Command{
		Use: "lock SERVICE --reason TEXT", Short: "Refuse rollouts of a service (never a way back)", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			resp, err := c.Services.LockService(ctx, connect.NewRequest(&pb.LockServiceRequest{Name: args[0], Reason: reason}))
			if err != nil {
				return err
			}
			return a.show(resp.Msg.Service, func(w io.Writer) { fmt.Fprintf(w, "%s is locked: %s\n", args[0], clean(reason)) })
		}),
	}
	lock.Flags().StringVar(&reason, "reason", "", "why, for everyone to read (required)")
	_ = lock.MarkFlagRequired("reason")
	return group("service", "Services and their locks",
		&cobra.Command{Use: "list", Short: "List services with their stable release", Args: cobra.NoArgs, RunE: a.with(a.serviceList)},
		&cobra.Command{Use: "show SERVICE", Short: "Show one service", Args: cobra.ExactArgs(1), RunE: a.with(a.serviceShow)},
		lock,
		&cobra.Command{
			Use: "unlock SERVICE", Short: "Allow rollouts of a service again", Args: cobra.ExactArgs(1),
			RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
				resp, err := c.Services.UnlockService(ctx, connect.NewRequest(&pb.UnlockServiceRequest{Name: args[0]}))
				if err != nil {
					return err
				}
				return a.show(resp.Msg.Service, func(w io.Writer) { fmt.Fprintf(w, "%s is unlocked\n", args[0]) })
			}),
		},
		a.rollbackCmd("rollback"),
	)
}

// rollbackCmd takes a service back. It never asks: at 4 am the way back is one command.
func (a *app) rollbackCmd(use string) *cobra.Command {
	var req pb.RollbackServiceRequest
	var follow bool
	cmd := &cobra.Command{
		Use:   use + " SERVICE",
		Short: "Take a service back to the release before, at once and everywhere",
		Long: "Take a service back to the release before the stable one, or with --to to one that was stable once.\n" +
			"It asks neither the gate nor you, bakes nothing, and needs no network on the hosts: the release is on their disks.",
		Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			req.Service = args[0]
			resp, err := c.Rollouts.RollbackService(ctx, connect.NewRequest(&req))
			if err != nil {
				return err
			}
			r := resp.Msg.Rollout
			if req.DryRun || !follow {
				return a.show(r, func(w io.Writer) { printRollout(w, r) })
			}
			return a.watch(ctx, c, r.Service, r.Id, true)
		}),
	}
	cmd.Flags().StringVar(&req.To, "to", "", "release to go back to (id or prefix); default the one before the stable one")
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for the record")
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "show what would go back and change nothing")
	cmd.Flags().BoolVar(&follow, "watch", true, "follow it to the end")
	return cmd
}

func (a *app) serviceList(ctx context.Context, c *client.Client, _ []string) error {
	resp, err := c.Services.ListServices(ctx, connect.NewRequest(&pb.ListServicesRequest{}))
	if err != nil {
		return err
	}
	return a.show(resp.Msg, func(w io.Writer) {
		if len(resp.Msg.Services) == 0 {
			fmt.Fprintln(w, "no services yet: publish a release with a push, or `murmur release build`")
			return
		}
		var rows [][]string
		for _, s := range resp.Msg.Services {
			locked := "-"
			if s.Lock != nil {
				locked = s.Lock.Reason
			}
			rows = append(rows, []string{s.Name, dash(shortID(s.StableRelease)), dash(shortID(s.PreviousRelease)), dash(shortID(s.ActiveRollout)), fmt.Sprint(s.Hosts), locked})
		}
		table(w, []string{"SERVICE", "STABLE", "PREVIOUS", "ROLLOUT", "HOSTS", "LOCKED"}, rows)
	})
}

func (a *app) serviceShow(ctx context.Context, c *client.Client, args []string) error {
	resp, err := c.Services.GetService(ctx, connect.NewRequest(&pb.GetServiceRequest{Name: args[0]}))
	if err != nil {
		return err
	}
	s := resp.Msg.Service
	return a.show(s, func(w io.Writer) {
		fmt.Fprintf(w, "service   %s\nstable    %s\nprevious  %s\nselector  %s (%d hosts)\n", s.Name, dash(s.StableRelease), dash(s.PreviousRelease), cmp.Or(s.Selector, "all"), s.Hosts)
		if s.ActiveRollout != "" {
			fmt.Fprintf(w, "rollout   %s (murmur rollout watch %s)\n", s.ActiveRollout, s.Name)
		}
		if len(s.QueuedRollouts) > 0 {
			fmt.Fprintf(w, "queued    %s\n", strings.Join(s.QueuedRollouts, ", "))
		}
		if s.Lock != nil {
			fmt.Fprintf(w, "LOCKED    by %s, %s ago: %s\n          murmur service unlock %s\n", clean(s.Lock.By), age(s.Lock.Since), clean(s.Lock.Reason), s.Name)
		}
	})
}
