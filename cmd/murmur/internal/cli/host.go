package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/murmuration/murmuration/fleet"
	"github.com/murmuration/murmuration/internal/client"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

func (a *app) hostCmd() *cobra.Command {
	var selector string
	list := &cobra.Command{
		Use: "list", Short: "List hosts, by rack", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error { return a.hostList(ctx, c, selector) }),
	}
	list.Flags().StringVarP(&selector, "selector", "l", "", "only hosts with these labels, for example rack=r1,role!=db")
	return group("host", "Hosts: the inventory of the fleet", list,
		&cobra.Command{Use: "show HOST", Short: "Show one host", Args: cobra.ExactArgs(1), RunE: a.with(a.hostShow)},
		&cobra.Command{
			Use: "label HOST KEY=VALUE... [KEY-]...", Short: "Set labels, or remove them with a trailing minus", Args: cobra.MinimumNArgs(2),
			RunE: a.with(a.hostLabel),
		},
		a.hostSetCmd("cordon", "Take a host out of new rollouts", func(r *pb.UpdateHostRequest) { r.Cordoned = new(true) }),
		a.hostSetCmd("uncordon", "Let a host take part in rollouts again", func(r *pb.UpdateHostRequest) { r.Cordoned = new(false) }),
		a.hostSetCmd("drain", "Stop every service on a host", func(r *pb.UpdateHostRequest) { r.Drained = new(true) }),
		a.hostSetCmd("undrain", "Run services on a host again", func(r *pb.UpdateHostRequest) { r.Drained = new(false) }),
		a.hostRemoveCmd(), a.hostImportCmd(),
	)
}

func (a *app) hostList(ctx context.Context, c *client.Client, selector string) error {
	resp, err := c.Fleet.ListHosts(ctx, connect.NewRequest(&pb.ListHostsRequest{Selector: selector}))
	if err != nil {
		return err
	}
	return a.show(resp.Msg, func(w io.Writer) {
		hosts := resp.Msg.Hosts
		slices.SortFunc(hosts, func(x, y *pb.Host) int {
			return strings.Compare(x.Labels[fleet.LabelDC]+"/"+x.Labels[fleet.LabelRack]+"/"+x.Name, y.Labels[fleet.LabelDC]+"/"+y.Labels[fleet.LabelRack]+"/"+y.Name)
		})
		var rows [][]string
		for _, h := range hosts {
			rows = append(rows, []string{h.Name, dash(h.Labels[fleet.LabelDC]), dash(h.Labels[fleet.LabelRack]), hostState(h), hostRuns(h), size(h.DiskFree), h.AgentVersion, h.Id})
		}
		table(w, []string{"HOST", "DC", "RACK", "STATE", "RUNS", "DISK FREE", "AGENT", "ID"}, rows)
	})
}

func hostState(h *pb.Host) string {
	state := "down " + age(h.LastSeen)
	if h.Connected {
		state = "up"
	} else if h.LastSeen == nil {
		state = "never seen"
	}
	if h.Drained {
		return state + ",drained"
	}
	if h.Cordoned {
		return state + ",cordoned"
	}
	return state
}

func hostRuns(h *pb.Host) string {
	var runs []string
	for _, s := range h.Services {
		text := s.Service + "@" + dash(shortID(s.Active))
		if s.State != "running" && s.State != "" {
			text += "(" + s.State + ")"
		}
		if s.Drift {
			text += "(drift)"
		}
		runs = append(runs, text)
	}
	return dash(strings.Join(runs, " "))
}

func (a *app) hostShow(ctx context.Context, c *client.Client, args []string) error {
	resp, err := c.Fleet.GetHost(ctx, connect.NewRequest(&pb.GetHostRequest{Id: args[0]}))
	if err != nil {
		return err
	}
	h := resp.Msg.Host
	return a.show(h, func(w io.Writer) {
		fmt.Fprintf(w, "host     %s (%s)\nstate    %s\nlabels   %s\nagent    %s at %s\ndisk     %s free of %s\n", clean(h.Name), h.Id, hostState(h), clean(fmt.Sprint(h.Labels)), h.AgentVersion, h.Address, size(h.DiskFree), size(h.DiskTotal))
		for _, s := range h.Services {
			fmt.Fprintf(w, "service  %s: %s, active %s, previous %s, %d restarts\n", s.Service, s.State, dash(s.Active), dash(s.Previous), s.Restarts)
			if s.Detail != "" {
				fmt.Fprintf(w, "         %s\n", clean(s.Detail))
			}
			for _, p := range s.Drifted {
				fmt.Fprintf(w, "         changed on disk: %s\n", clean(p))
			}
		}
	})
}

func (a *app) hostLabel(ctx context.Context, c *client.Client, args []string) error {
	req := &pb.UpdateHostRequest{Id: args[0], SetLabels: map[string]string{}}
	for _, l := range args[1:] {
		if key, ok := strings.CutSuffix(l, "-"); ok && !strings.Contains(l, "=") {
			req.RemoveLabels = append(req.RemoveLabels, key)
			continue
		}
		key, value, ok := strings.Cut(l, "=")
		if !ok {
			return fmt.Errorf("%w: label %q is neither KEY=VALUE nor KEY-", ErrUsage, l)
		}
		req.SetLabels[key] = value
	}
	return a.updateHost(ctx, c, req)
}

func (a *app) hostSetCmd(use, about string, set func(*pb.UpdateHostRequest)) *cobra.Command {
	return &cobra.Command{
		Use: use + " HOST", Short: about, Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			req := &pb.UpdateHostRequest{Id: args[0]}
			set(req)
			return a.updateHost(ctx, c, req)
		}),
	}
}

func (a *app) updateHost(ctx context.Context, c *client.Client, req *pb.UpdateHostRequest) error {
	resp, err := c.Fleet.UpdateHost(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	return a.show(resp.Msg.Host, func(w io.Writer) {
		h := resp.Msg.Host
		fmt.Fprintf(w, "%s: %s, labels %s\n", clean(h.Name), hostState(h), clean(fmt.Sprint(h.Labels)))
	})
}

func (a *app) hostRemoveCmd() *cobra.Command {
	return a.changing(&cobra.Command{
		Use: "remove HOST", Short: "Remove a host from the fleet and revoke its certificate", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			host, err := c.Fleet.GetHost(ctx, connect.NewRequest(&pb.GetHostRequest{Id: args[0]}))
			if err != nil {
				return err
			}
			h := host.Msg.Host
			fmt.Fprintf(a.Stderr, "%s (%s) is %s and runs %s\nwhat it runs goes on; it must join again to be managed\n", clean(h.Name), h.Id, hostState(h), hostRuns(h))
			if ok, err := a.confirm("Remove it?"); !ok {
				return err
			}
			_, err = c.Fleet.RemoveHost(ctx, connect.NewRequest(&pb.RemoveHostRequest{Id: h.Id}))
			return err
		}),
	})
}

func (a *app) hostImportCmd() *cobra.Command {
	return a.changing(&cobra.Command{
		Use: "import FILE", Short: "Declare hosts from a CSV or JSON file before they join", Args: cobra.ExactArgs(1),
		Long: "Declare hosts before they join. CSV has a header: name, then one column per label. JSON is an array of\n" +
			"{\"name\": ..., \"labels\": {...}}. Nothing changes when any row is wrong.",
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			hosts, err := fleet.ParseInventory(data, strings.TrimPrefix(filepath.Ext(args[0]), "."))
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			req := &pb.ImportHostsRequest{DryRun: true}
			for _, h := range hosts {
				req.Hosts = append(req.Hosts, &pb.Host{Id: h.ID, Name: h.Name, Labels: h.Labels})
			}
			resp, err := c.Fleet.ImportHosts(ctx, connect.NewRequest(req))
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Stderr, "%d hosts would be added, %d changed\n", resp.Msg.Added, resp.Msg.Changed)
			if ok, err := a.confirm("Import them?"); !ok {
				return err
			}
			req.DryRun = false
			resp, err = c.Fleet.ImportHosts(ctx, connect.NewRequest(req))
			if err != nil {
				return err
			}
			return a.show(resp.Msg, func(w io.Writer) { fmt.Fprintf(w, "%d added, %d changed\n", resp.Msg.Added, resp.Msg.Changed) })
		}),
	})
}

// fleetCmd holds the emergency stop.
func (a *app) fleetCmd() *cobra.Command {
	return group("fleet", "The fleet as a whole: the emergency stop",
		a.stopCmd(), a.liftCmd(),
		&cobra.Command{
			Use: "status", Short: "Say whether the emergency stop is in force, and what is going on", Args: cobra.NoArgs,
			RunE: a.with(a.fleetStatus),
		},
	)
}

func (a *app) stopCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "stop --reason TEXT", Short: "Emergency stop: every rollout halts, no host starts an activation", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			resp, err := c.Rollouts.Stop(ctx, connect.NewRequest(&pb.StopRequest{Reason: reason}))
			if err != nil {
				return err
			}
			return a.show(resp.Msg.Stop, func(w io.Writer) {
				fmt.Fprintln(w, "STOPPED. Ways back still work: murmur service rollback SERVICE. End it with: murmur fleet lift")
			})
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for everyone to read")
	return cmd
}

func (a *app) liftCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "lift", Short: "End the emergency stop; rollouts stay paused until resumed", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			resp, err := c.Rollouts.LiftStop(ctx, connect.NewRequest(&pb.LiftStopRequest{Reason: reason}))
			if err != nil {
				return err
			}
			return a.show(resp.Msg.Stop, func(w io.Writer) {
				fmt.Fprintln(w, "the emergency stop is lifted; paused rollouts go on with: murmur rollout resume SERVICE")
			})
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}

func (a *app) fleetStatus(ctx context.Context, c *client.Client, _ []string) error {
	stop, err := c.Rollouts.GetStop(ctx, connect.NewRequest(&pb.GetStopRequest{}))
	if err != nil {
		return err
	}
	hosts, err := c.Fleet.ListHosts(ctx, connect.NewRequest(&pb.ListHostsRequest{}))
	if err != nil {
		return err
	}
	active, err := c.Rollouts.ListRollouts(ctx, connect.NewRequest(&pb.ListRolloutsRequest{ActiveOnly: true, Limit: 50}))
	if err != nil {
		return err
	}
	up := 0
	for _, h := range hosts.Msg.Hosts {
		if h.Connected {
			up++
		}
	}
	status := fleetState{Stopped: stop.Msg.Stop.GetStopped(), Reason: stop.Msg.Stop.GetReason(), Hosts: len(hosts.Msg.Hosts), Up: up}
	for _, r := range active.Msg.Rollouts {
		status.Rollouts = append(status.Rollouts, r.Service+": "+summary(r))
	}
	return a.showValue(status, func(w io.Writer) {
		if status.Stopped {
			fmt.Fprintf(w, "EMERGENCY STOP in force: %s\n", clean(status.Reason))
		}
		fmt.Fprintf(w, "%d of %d hosts up\n", status.Up, status.Hosts)
		for _, r := range status.Rollouts {
			fmt.Fprintln(w, clean(r))
		}
	})
}

type fleetState struct {
	Stopped  bool     `json:"stopped"`
	Reason   string   `json:"reason,omitempty"`
	Hosts    int      `json:"hosts"`
	Up       int      `json:"up"`
	Rollouts []string `json:"rollouts,omitempty"`
}
