package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/client"
	"github.com/murmuration/murmuration/internal/wire"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

func (a *app) flagCreateCmd() *cobra.Command {
	f := feature.Flag{Type: feature.Boolean, On: "on", Off: "off"}
	var at, expires, reason string
	cmd := &cobra.Command{
		Use: "create KEY", Short: "Make a boolean flag, off unless --dial says otherwise", Args: cobra.ExactArgs(1),
		Long: "Make a boolean flag: true for the units within its dial, false for the others. Flags of other types, with\n" +
			"rules or schedules come from a file: murmur flag set -f FILE.",
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var err error
			if f.Dial, err = dial.Parse(at); err != nil {
				return fmt.Errorf("%w: --dial: %w", ErrUsage, err)
			}
			if expires != "" {
				if f.ExpiresAt, err = time.Parse(time.DateOnly, expires); err != nil {
					return fmt.Errorf("%w: --expires %q is not a date such as 2027-03-31", ErrUsage, expires)
				}
			}
			f.Key = args[0]
			f.Variants = []feature.Variant{{Name: "on", Value: json.RawMessage("true")}, {Name: "off", Value: json.RawMessage("false")}}
			resp, err := c.Flags.PutFlag(ctx, connect.NewRequest(&pb.PutFlagRequest{Flag: wire.Flag(f), Reason: reason}))
			if err != nil {
				return a.conflict(f.Key, err)
			}
			return a.show(resp.Msg.Flag, func(w io.Writer) {
				fmt.Fprintf(w, "%s is made, on for %s; turn it: murmur flag turn %s 1%%\n", f.Key, f.Dial.Percent(), f.Key)
			})
		}),
	}
	cmd.Flags().StringVar(&f.Description, "description", "", "what it switches")
	cmd.Flags().StringVar(&f.Owner, "owner", "", "who answers for it")
	cmd.Flags().StringVar(&at, "dial", "0", "who gets true, 0 to 10000 or a percentage such as 2.5%")
	cmd.Flags().StringVar(&f.Unit, "unit", "", "attribute to bucket by, for example host; default the targeting key")
	cmd.Flags().StringSliceVar(&f.Tags, "tag", nil, "tags; `murmur flag kill --tag` kills all flags of one")
	cmd.Flags().StringVar(&expires, "expires", "", "date by which it should be cleaned up, for example 2027-03-31")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}

func (a *app) flagSetCmd() *cobra.Command {
	var file, reason string
	cmd := &cobra.Command{
		Use: "set -f FILE", Short: "Create or replace a flag by its definition, after showing the difference", Args: cobra.NoArgs,
		Long: "Create or replace a flag by its definition in JSON (- is standard input). `murmur flag show KEY --definition`\n" +
			"prints one to begin with. With a version in it, the flag is only replaced if it still has that version;\n" +
			"without, it replaces what the difference shown was made against.",
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			var f feature.Flag
			if err := a.readDefinition(file, &f); err != nil {
				return err
			}
			if f.Version == 0 {
				now, err := getFlag(ctx, c, f.Key)
				if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
					return err
				}
				f.Version = now.GetVersion()
			}
			return a.putFlag(ctx, c, f, reason)
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the definition, as JSON (required)")
	_ = cmd.MarkFlagRequired("file")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return a.changing(cmd)
}

// putFlag writes a definition after showing what would change.
func (a *app) putFlag(ctx context.Context, c *client.Client, f feature.Flag, reason string) error {
	req := &pb.PutFlagRequest{Flag: wire.Flag(f), Reason: reason, DryRun: true}
	plan, err := c.Flags.PutFlag(ctx, connect.NewRequest(req))
	if err != nil {
		return a.conflict(f.Key, err)
	}
	if f.Version != 0 && len(plan.Msg.Changes) == 0 {
		fmt.Fprintf(a.Stderr, "%s is so already (version %d): nothing to change\n", f.Key, f.Version)
		return a.show(plan.Msg.Flag, func(io.Writer) {})
	}
	if f.Version == 0 {
		fmt.Fprintf(a.Stderr, "%s is new\n", f.Key)
	}
	printChanges(a.Stderr, plan.Msg.Changes)
	if ok, err := a.confirm("Write it?"); !ok {
		return err
	}
	req.DryRun = false
	resp, err := c.Flags.PutFlag(ctx, connect.NewRequest(req))
	if err != nil {
		return a.conflict(f.Key, err)
	}
	return a.show(resp.Msg.Flag, func(w io.Writer) { printWritten(w, resp.Msg.Flag) })
}

func printWritten(w io.Writer, f *pb.Flag) {
	fmt.Fprintf(w, "%s is at version %d: %s\n", f.Key, f.Version, clean(flagState(f)))
}

// conflict explains a write that lost against another: what is stored now and was not seen, and how to go on.
// Every other error comes back as it is.
func (a *app) conflict(key string, err error) error {
	e, ok := errors.AsType[*connect.Error](err)
	if !ok || e.Code() != connect.CodeAborted {
		return err
	}
	for _, d := range e.Details() {
		m, err := d.Value()
		c, ok := m.(*pb.FlagConflict)
		if err != nil || !ok || c.Current == nil {
			continue
		}
		now := c.Current
		fmt.Fprintln(a.Stderr, "from yours to what is stored:")
		printChanges(a.Stderr, c.Changes)
		return fmt.Errorf("%s was changed by %s %s ago and is at version %d now: nothing was written\n"+
			"take their change into yours, or drop yours: murmur flag show %s --definition; murmur flag history %s", key, dash(clean(now.UpdatedBy)), age(now.UpdatedAt), now.Version, key, key)
	}
	return err
}

func (a *app) flagTurnCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "turn KEY DIAL", Short: "Turn a flag's dial: 250 or 2.5%; asks only when it goes up", Args: cobra.ExactArgs(2),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			to, err := dial.Parse(args[1])
			if err != nil {
				return fmt.Errorf("%w: %w", ErrUsage, err)
			}
			now, err := getFlag(ctx, c, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Stderr, "%s: %s -> %s get %s, by %s\n", now.Key, percent(now.DialNow), to.Percent(), clean(now.On), unitName(now.Unit))
			if a.dryRun || int32(to) > now.DialNow {
				if ok, err := a.confirm("Turn it?"); !ok {
					return err
				}
			}
			resp, err := c.Flags.TurnFlag(ctx, connect.NewRequest(&pb.TurnFlagRequest{Key: now.Key, Dial: int32(to), Version: now.Version, Reason: reason}))
			if err != nil {
				return a.conflict(now.Key, err)
			}
			f := resp.Msg.Flag
			return a.show(f, func(w io.Writer) {
				printWritten(w, f)
				if f.Killed == nil && f.DialNow != int32(to) {
					fmt.Fprintf(w, "its schedule says %s now, and decides: murmur flag show %s\n", percent(f.DialNow), f.Key)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return a.changing(cmd)
}

// flagModeCmd puts a service in a mode. It never asks: shedding load is a way to safety.
func (a *app) flagModeCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "mode KEY [normal|read-only|static]", Short: "Show a service's mode, or put the service in another, for everyone and at once", Args: cobra.RangeArgs(1, 2),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			now, err := getFlag(ctx, c, args[0])
			if len(args) == 1 {
				if err != nil {
					return err
				}
				return a.show(now, func(w io.Writer) { fmt.Fprintf(w, "%s: %s\n", now.Key, clean(flagState(now))) })
			}
			f := modeFlag(args[0])
			switch {
			case err == nil:
				if f, err = wire.ToFlag(now); err != nil {
					return err
				}
			case connect.CodeOf(err) != connect.CodeNotFound:
				return err
			}
			if err := setMode(&f, args[1], now.GetKilled() != nil); err != nil {
				return err
			}
			resp, err := c.Flags.PutFlag(ctx, connect.NewRequest(&pb.PutFlagRequest{Flag: wire.Flag(f), Reason: reason}))
			if err != nil {
				return a.conflict(f.Key, err)
			}
			return a.show(resp.Msg.Flag, func(w io.Writer) { fmt.Fprintf(w, "%s: %s\n", f.Key, clean(flagState(resp.Msg.Flag))) })
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}

// modeFlag is the definition of a service's mode that is set for the first time.
func modeFlag(key string) feature.Flag {
	f := feature.Flag{Key: key, Type: feature.Mode, On: feature.ModeReadOnly, Off: feature.ModeNormal, Description: "mode of a service"}
	for _, m := range []string{feature.ModeNormal, feature.ModeReadOnly, feature.ModeStatic} {
		text, _ := json.Marshal(m) // text can always be encoded
		f.Variants = append(f.Variants, feature.Variant{Name: m, Value: text})
	}
	return f
}

// setMode makes a definition answer one mode to everyone.
func setMode(f *feature.Flag, mode string, killed bool) error {
	switch {
	case f.Type != feature.Mode:
		return fmt.Errorf("%w: %s is a flag of type %s, not mode", ErrUsage, f.Key, f.Type)
	case killed:
		return fmt.Errorf("%s is killed and answers %s whatever it says: murmur flag restore %s first", f.Key, f.Off, f.Key)
	case mode == f.Off:
		f.Dial = dial.Off
	default:
		f.On, f.Dial = mode, dial.Full
	}
	if f.Schedule != nil || len(f.Rules) > 0 || len(f.Overrides) > 0 || len(f.Prerequisites) > 0 {
		return fmt.Errorf("%s has rules or a schedule that decide first: change its definition (murmur flag show %s --definition; murmur flag set -f)", f.Key, f.Key)
	}
	return nil
}
