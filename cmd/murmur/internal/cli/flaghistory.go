package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/client"
	"github.com/murmuration/murmuration/internal/wire"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

func (a *app) flagHistoryCmd() *cobra.Command {
	var req pb.ListFlagVersionsRequest
	cmd := &cobra.Command{
		Use: "history KEY", Short: "List every version of a flag: who, when, why and what", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			req.Key = args[0]
			resp, err := c.Flags.ListFlagVersions(ctx, connect.NewRequest(&req))
			if err != nil {
				return err
			}
			return a.show(resp.Msg, func(w io.Writer) {
				var rows [][]string
				for _, v := range resp.Msg.Versions {
					rows = append(rows, []string{fmt.Sprint(v.Flag.GetVersion()), v.What, v.By, age(v.At), percent(v.Flag.GetDial()), changedPaths(v.Changes), dash(v.Reason)})
				}
				table(w, []string{"VERSION", "WHAT", "BY", "AGE", "DIAL", "CHANGED", "REASON"}, rows)
			})
		}),
	}
	cmd.Flags().Int32Var(&req.Limit, "limit", 20, "how many, newest first")
	return cmd
}

// changedPaths names what changed, briefly.
func changedPaths(changes []*pb.FlagFieldChange) string {
	var paths []string
	for _, c := range changes {
		if len(paths) == 3 {
			paths = append(paths, fmt.Sprintf("and %d more", len(changes)-3))
			break
		}
		paths = append(paths, c.Path)
	}
	return dash(strings.Join(paths, ", "))
}

// printChanges prints differences a line each.
func printChanges(w io.Writer, changes []*pb.FlagFieldChange) {
	for _, c := range changes {
		switch {
		case c.Before == "":
			fmt.Fprintf(w, "  + %s: %s\n", clean(c.Path), clean(c.After))
		case c.After == "":
			fmt.Fprintf(w, "  - %s: %s\n", clean(c.Path), clean(c.Before))
		default:
			fmt.Fprintf(w, "  ~ %s: %s -> %s\n", clean(c.Path), clean(c.Before), clean(c.After))
		}
	}
	if len(changes) == 0 {
		fmt.Fprintln(w, "  no difference")
	}
}

func (a *app) flagDiffCmd() *cobra.Command {
	return &cobra.Command{
		Use: "diff KEY [FROM [TO]]", Short: "Show what differs between two versions (default the last two; TO default the newest)", Args: cobra.RangeArgs(1, 3),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			versions, err := allVersions(ctx, c, args[0])
			if err != nil {
				return err
			}
			to, from := versions[0], versions[min(1, len(versions)-1)]
			if len(args) > 1 {
				if from, err = findVersion(versions, args[1]); err != nil {
					return err
				}
			}
			if len(args) > 2 {
				if to, err = findVersion(versions, args[2]); err != nil {
					return err
				}
			}
			changes, err := diffVersions(from, to)
			if err != nil {
				return err
			}
			return a.show(&pb.PutFlagResponse{Flag: to.Flag, Changes: changes}, func(w io.Writer) {
				fmt.Fprintf(w, "%s, version %d (%s) to %d (%s)\n", clean(args[0]), from.Flag.GetVersion(), clean(from.By), to.Flag.GetVersion(), clean(to.By))
				printChanges(w, changes)
			})
		}),
	}
}

// maxVersions bounds how much of a history is looked through.
const maxVersions = 10_000

// allVersions are a flag's versions, newest first; at least one.
func allVersions(ctx context.Context, c *client.Client, key string) ([]*pb.FlagVersion, error) {
	resp, err := c.Flags.ListFlagVersions(ctx, connect.NewRequest(&pb.ListFlagVersionsRequest{Key: key, Limit: maxVersions}))
	if err != nil {
		return nil, err
	}
	if len(resp.Msg.Versions) == 0 {
		return nil, fmt.Errorf("flag %s has no versions: murmur flag list", key)
	}
	return resp.Msg.Versions, nil
}

func findVersion(versions []*pb.FlagVersion, text string) (*pb.FlagVersion, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%w: version %q is not a number", ErrUsage, text)
	}
	for _, v := range versions {
		if v.Flag.GetVersion() == n {
			return v, nil
		}
	}
	return nil, fmt.Errorf("%s has no version %d: murmur flag history %s", versions[0].Flag.GetKey(), n, versions[0].Flag.GetKey())
}

func diffVersions(from, to *pb.FlagVersion) ([]*pb.FlagFieldChange, error) {
	before, err := storedFlag(from.Flag)
	if err != nil {
		return nil, err
	}
	after, err := storedFlag(to.Flag)
	if err != nil {
		return nil, err
	}
	return wire.FlagChanges(feature.Diff(before, after)), nil
}

// storedFlag reads a definition with its kill.
func storedFlag(m *pb.Flag) (feature.Flag, error) {
	f, err := wire.ToFlag(m)
	if k := m.GetKilled(); k != nil {
		f.Killed = &feature.Kill{By: k.By, Why: k.Why, When: wire.ToTime(k.When)}
	}
	return f, err
}

func (a *app) flagRestoreVersionCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "restore-version KEY VERSION", Short: "Write an old version as the newest one, after showing the difference", Args: cobra.ExactArgs(2),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			versions, err := allVersions(ctx, c, args[0])
			if err != nil {
				return err
			}
			old, err := findVersion(versions, args[1])
			if err != nil {
				return err
			}
			changes, err := diffVersions(versions[0], old)
			if err != nil {
				return err
			}
			printChanges(a.Stderr, changes)
			if ok, err := a.confirm("Restore this version?"); !ok {
				return err
			}
			resp, err := c.Flags.RestoreFlagVersion(ctx, connect.NewRequest(&pb.RestoreFlagVersionRequest{
				Key: args[0], Restore: old.Flag.GetVersion(), Version: versions[0].Flag.GetVersion(), Reason: reason,
			}))
			if err != nil {
				return a.conflict(args[0], err)
			}
			return a.show(resp.Msg.Flag, func(w io.Writer) { printWritten(w, resp.Msg.Flag) })
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return a.changing(cmd)
}

// counts renders counts by name, the largest first.
func counts(by map[string]int64) string {
	names := slices.SortedFunc(maps.Keys(by), func(x, y string) int {
		if by[x] != by[y] {
			return int(min(max(by[y]-by[x], -1), 1))
		}
		return strings.Compare(x, y)
	})
	var parts []string
	for i, name := range names {
		if i == 4 {
			parts = append(parts, fmt.Sprintf("and %d more", len(names)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%s %d", name, by[name]))
	}
	return dash(strings.Join(parts, ", "))
}
