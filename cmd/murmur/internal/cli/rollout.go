package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/murmuration/murmuration/internal/client"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

func (a *app) rolloutCmd() *cobra.Command {
	return group("rollout", "Rollouts: how a release reaches the fleet",
		a.rolloutPlanCmd(), a.rolloutStartCmd(), a.rolloutListCmd(),
		&cobra.Command{
			Use: "show SERVICE [ROLLOUT]", Short: "Show a rollout (default the latest)", Args: cobra.RangeArgs(1, 2),
			RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
				resp, err := c.Rollouts.GetRollout(ctx, connect.NewRequest(&pb.GetRolloutRequest{Service: args[0], Id: second(args)}))
				if err != nil {
					return err
				}
				return a.show(resp.Msg.Rollout, func(w io.Writer) { printRollout(w, resp.Msg.Rollout) })
			}),
		},
		&cobra.Command{
			Use: "watch SERVICE [ROLLOUT]", Short: "Follow a rollout live; exits 1 unless it completes", Args: cobra.RangeArgs(1, 2),
			RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
				return a.watch(ctx, c, args[0], second(args), false)
			}),
		},
		a.steerCmd("pause", "Stop widening; what runs stays", pb.Steer_STEER_PAUSE),
		a.steerCmd("resume", "Go on after a pause", pb.Steer_STEER_RESUME),
		a.steerCmd("promote", "Start the next step now", pb.Steer_STEER_PROMOTE),
		a.steerCmd("abort", "End the rollout in place: every host stays as it is", pb.Steer_STEER_ABORT),
		a.steerCmd("rollback", "Take every touched host back", pb.Steer_STEER_ROLLBACK),
		&cobra.Command{
			Use: "scripts SERVICE HOST", Short: "Show what the check scripts printed on a host", Args: cobra.ExactArgs(2),
			RunE: a.with(a.rolloutScripts),
		},
	)
}

func second(args []string) string {
	if len(args) > 1 {
		return args[1]
	}
	return ""
}

// strategyFile reads a strategy override: JSON in a file, or nothing.
func strategyFile(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read strategy: %w", err)
	}
	return string(b), nil
}

func (a *app) rolloutPlanCmd() *cobra.Command {
	var strategy string
	cmd := &cobra.Command{
		Use: "plan SERVICE [RELEASE]", Short: "Show what a rollout would do, and change nothing", Args: cobra.RangeArgs(1, 2),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			plan, err := a.plan(ctx, c, args, strategy)
			if err != nil {
				return err
			}
			return a.show(plan, func(w io.Writer) { printPlan(w, plan) })
		}),
	}
	cmd.Flags().StringVar(&strategy, "strategy", "", "file with a strategy as JSON, instead of the release's own")
	return cmd
}

func (a *app) plan(ctx context.Context, c *client.Client, args []string, strategy string) (*pb.PlanRolloutResponse, error) {
	override, err := strategyFile(strategy)
	if err != nil {
		return nil, err
	}
	resp, err := c.Rollouts.PlanRollout(ctx, connect.NewRequest(&pb.PlanRolloutRequest{Service: args[0], Release: releaseArg(args), StrategyJson: override}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

func releaseArg(args []string) string {
	if len(args) > 1 {
		return args[1]
	}
	return "latest"
}

func (a *app) rolloutStartCmd() *cobra.Command {
	var strategy, reason string
	var follow bool
	cmd := &cobra.Command{
		Use: "start SERVICE [RELEASE]", Short: "Roll a release out (default the latest), after showing the plan", Args: cobra.RangeArgs(1, 2),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			plan, err := a.plan(ctx, c, args, strategy)
			if err != nil {
				return err
			}
			if !a.json {
				printPlan(a.Stderr, plan)
			}
			if ok, err := a.confirm("Start this rollout?"); !ok {
				return err
			}
			override, err := strategyFile(strategy)
			if err != nil {
				return err
			}
			resp, err := c.Rollouts.StartRollout(ctx, connect.NewRequest(&pb.StartRolloutRequest{
				// The id of the plan makes a repeated request answer with the same rollout.
				Service: args[0], Release: plan.Rollout.Release, StrategyJson: override, Reason: reason, RequestId: plan.Rollout.Id,
			}))
			if err != nil {
				return err
			}
			if !follow {
				return a.show(resp.Msg.Rollout, func(w io.Writer) {
					fmt.Fprintf(w, "rollout %s started; follow it: murmur rollout watch %s\n", resp.Msg.Rollout.Id, args[0])
				})
			}
			return a.watch(ctx, c, args[0], resp.Msg.Rollout.Id, false)
		}),
	}
	cmd.Flags().StringVar(&strategy, "strategy", "", "file with a strategy as JSON, instead of the release's own")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	cmd.Flags().BoolVar(&follow, "watch", false, "follow it to the end")
	return a.changing(cmd)
}

func (a *app) rolloutListCmd() *cobra.Command {
	var req pb.ListRolloutsRequest
	cmd := &cobra.Command{
		Use: "list [SERVICE]", Short: "List rollouts, newest first", Args: cobra.MaximumNArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) == 1 {
				req.Service = args[0]
			}
			resp, err := c.Rollouts.ListRollouts(ctx, connect.NewRequest(&req))
			if err != nil {
				return err
			}
			return a.show(resp.Msg, func(w io.Writer) {
				var rows [][]string
				for _, r := range resp.Msg.Rollouts {
					rows = append(rows, []string{r.Id, r.Service, shortID(r.Release), r.Phase, hostsDone(r), age(r.CreatedAt), r.By, r.Reason})
				}
				table(w, []string{"ROLLOUT", "SERVICE", "RELEASE", "PHASE", "HOSTS", "AGE", "BY", "REASON"}, rows)
			})
		}),
	}
	cmd.Flags().Int32Var(&req.Limit, "limit", 20, "how many")
	cmd.Flags().BoolVar(&req.ActiveOnly, "active", false, "only those that are not finished")
	return cmd
}

func hostsDone(r *pb.Rollout) string {
	n := r.Counts
	if n == nil {
		return "-"
	}
	return fmt.Sprintf("%d/%d", n.Active, n.Total)
}

func (a *app) steerCmd(use, about string, steer pb.Steer) *cobra.Command {
	var reason string
	var all bool
	cmd := &cobra.Command{
		Use: use + " SERVICE [ROLLOUT]", Short: about, Args: cobra.RangeArgs(1, 2),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			resp, err := c.Rollouts.SteerRollout(ctx, connect.NewRequest(&pb.SteerRolloutRequest{
				Service: args[0], Id: second(args), Steer: steer, Reason: reason, All: all,
			}))
			if err != nil {
				return err
			}
			return a.show(resp.Msg.Rollout, func(w io.Writer) { printRollout(w, resp.Msg.Rollout) })
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	if steer == pb.Steer_STEER_PROMOTE {
		cmd.Flags().BoolVar(&all, "all", false, "make one step of all that are left")
	}
	return cmd
}

func (a *app) rolloutScripts(ctx context.Context, c *client.Client, args []string) error {
	resp, err := c.Rollouts.GetScripts(ctx, connect.NewRequest(&pb.GetScriptsRequest{Service: args[0], Host: args[1]}))
	if err != nil {
		return err
	}
	return a.show(resp.Msg, func(w io.Writer) {
		fmt.Fprintf(w, "release %s on %s\n", resp.Msg.ReleaseId, clean(args[1]))
		for _, s := range resp.Msg.Scripts {
			fmt.Fprintf(w, "-- %s %s: exit %d after %s %s\n%s", s.Phase, clean(s.Name), s.ExitCode, s.Took.AsDuration(), clean(s.Error), cleanText(string(s.Output)))
			if s.Truncated {
				fmt.Fprintln(w, "-- (cut)")
			}
		}
	})
}

func printPlan(w io.Writer, p *pb.PlanRolloutResponse) {
	r := p.Rollout
	fmt.Fprintf(w, "plan for %s: release %s", r.Service, r.Release)
	if r.Stable != "" {
		fmt.Fprintf(w, " replaces %s", r.Stable)
	}
	fmt.Fprintln(w)
	for i, s := range r.Steps {
		what := "bakes " + s.Bake.AsDuration().String()
		if s.Manual {
			what = "waits for promote"
		}
		fmt.Fprintf(w, "  step %d  %4d hosts  %-20s", i+1, s.Hosts, what)
		if i < len(p.BlastRadius) {
			fmt.Fprintf(w, "  %s", clean(p.BlastRadius[i]))
		}
		fmt.Fprintln(w)
	}
	for _, warning := range p.Warnings {
		fmt.Fprintf(w, "  warning: %s\n", clean(warning))
	}
}

func printRollout(w io.Writer, r *pb.Rollout) {
	fmt.Fprintf(w, "rollout  %s of %s\nrelease  %s", r.Id, r.Service, r.Release)
	if r.Stable != "" {
		fmt.Fprintf(w, " (goes back to %s)", r.Stable)
	}
	fmt.Fprintf(w, "\nphase    %s for %s", r.Phase, age(r.Since))
	if r.Reason != "" {
		fmt.Fprintf(w, ": %s", clean(r.Reason))
	}
	fmt.Fprintf(w, "\nstep     %d of %d\n", r.Step+1, len(r.Steps))
	if n := r.Counts; n != nil {
		fmt.Fprintf(w, "hosts    %d: %d staged, %d active, %d failed, %d lost, %d reverted\n", n.Total, n.Staged, n.Active, n.Failed, n.Lost, n.Reverted)
	}
	if r.Gate != "" && r.Gate != "open" {
		fmt.Fprintf(w, "gate     %s: %s\n", r.Gate, clean(r.GateReason))
	}
	printTroubled(w, r)
	if n := len(r.Timeline); n > 0 {
		fmt.Fprintln(w, "timeline")
		for _, e := range r.Timeline[max(0, n-15):] {
			fmt.Fprintf(w, "  %s  %s\n", e.At.AsTime().Local().Format("15:04:05"), clean(entryText(r, e)))
		}
	}
}

func entryText(r *pb.Rollout, e *pb.TimelineEntry) string {
	text := e.Text
	if e.Host != "" {
		text = hostName(r, e.Host) + ": " + text
	}
	if e.By != "" {
		text += " (" + e.By + ")"
	}
	return text
}

// hostName is what people call a host of the rollout.
func hostName(r *pb.Rollout, id string) string {
	for _, h := range r.Hosts {
		if h.Id == id && h.Name != "" {
			return h.Name
		}
	}
	return id
}

// printTroubled lists the hosts that need a look.
func printTroubled(w io.Writer, r *pb.Rollout) {
	var rows [][]string
	for _, h := range r.Hosts {
		if h.Lost || h.Detail != "" || h.Phase == "failed" || h.Phase == "stage_failed" || h.Phase == "revert_failed" {
			rows = append(rows, []string{"  " + dash(h.Name), h.Rack, h.Phase, yesNo(h.Lost), h.Detail})
		}
	}
	if len(rows) > 0 {
		table(w, []string{"  HOST", "RACK", "PHASE", "LOST", "DETAIL"}, rows)
	}
}
