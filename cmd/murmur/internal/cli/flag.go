package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/internal/client"
	"github.com/murmuration/murmuration/internal/wire"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

// flagCmd is darkmode on the command line. What turns a feature off (kill, turning a dial down, a mode) never asks;
// what turns one on, replaces a definition or removes one shows the plan first.
func (a *app) flagCmd() *cobra.Command {
	return group("flag", "Flags: who gets a feature, and the switch that takes it away",
		a.flagListCmd(), a.flagShowCmd(), a.flagCreateCmd(), a.flagSetCmd(), a.flagTurnCmd(), a.flagModeCmd(),
		a.flagKillCmd(), a.flagRestoreCmd(), a.flagDeleteCmd(),
		a.flagHistoryCmd(), a.flagDiffCmd(), a.flagRestoreVersionCmd(), a.flagEvalCmd(), a.flagUsageCmd(),
	)
}

func (a *app) flagListCmd() *cobra.Command {
	var req pb.ListFlagsRequest
	cmd := &cobra.Command{
		Use: "list", Short: "List flags with their dials", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			resp, err := c.Flags.ListFlags(ctx, connect.NewRequest(&req))
			if err != nil {
				return err
			}
			return a.show(resp.Msg, func(w io.Writer) { printFlags(w, resp.Msg.Flags) })
		}),
	}
	cmd.Flags().StringVar(&req.Tag, "tag", "", "only flags with this tag")
	cmd.Flags().BoolVar(&req.KilledOnly, "killed", false, "only flags that are killed")
	return cmd
}

func printFlags(w io.Writer, flags []*pb.Flag) {
	if len(flags) == 0 {
		fmt.Fprintln(w, "no such flags; make one: murmur flag create KEY")
		return
	}
	var rows [][]string
	for _, f := range flags {
		rows = append(rows, []string{f.Key, f.Type, flagState(f), fmt.Sprint(f.Version), dash(f.Owner), dash(strings.Join(f.Tags, ",")), age(f.UpdatedAt), f.UpdatedBy})
	}
	table(w, []string{"FLAG", "TYPE", "STATE", "VERSION", "OWNER", "TAGS", "CHANGED", "BY"}, rows)
}

// flagState is what a flag does now, in a few words.
func flagState(f *pb.Flag) string {
	if k := f.Killed; k != nil {
		return fmt.Sprintf("KILLED %s ago: %s", age(k.When), dash(k.Why))
	}
	state := percent(f.DialNow)
	switch f.DialNow {
	case int32(dial.Off):
		state += " (" + f.Off + ")"
	case int32(dial.Full):
		state += " (" + f.On + ")"
	}
	if n := len(f.Rules); n > 0 {
		state += fmt.Sprintf(", %d rules first", n)
	}
	if f.Schedule != nil {
		state += ", scheduled"
	}
	return state
}

// percent renders a dial that a server sent.
func percent(n int32) string {
	d, err := dial.New(int(n))
	if err != nil {
		return fmt.Sprint(n)
	}
	return d.Percent()
}

func (a *app) flagShowCmd() *cobra.Command {
	var definition bool
	cmd := &cobra.Command{
		Use: "show KEY", Short: "Show one flag", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			f, err := getFlag(ctx, c, args[0])
			if err != nil {
				return err
			}
			if !definition {
				return a.show(f, func(w io.Writer) { printFlag(w, f) })
			}
			def, err := wire.ToFlag(f)
			if err != nil {
				return err
			}
			text, err := json.MarshalIndent(def, "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.Stdout, "%s\n", text)
			return err
		}),
	}
	cmd.Flags().BoolVar(&definition, "definition", false, "print the definition as JSON, in the form that `murmur flag set -f` reads")
	return cmd
}

func getFlag(ctx context.Context, c *client.Client, key string) (*pb.Flag, error) {
	resp, err := c.Flags.GetFlag(ctx, connect.NewRequest(&pb.GetFlagRequest{Key: key}))
	if err != nil {
		return nil, err
	}
	if resp.Msg.Flag == nil {
		return nil, fmt.Errorf("flag %s: the server sent nothing", key)
	}
	return resp.Msg.Flag, nil
}

func printFlag(w io.Writer, f *pb.Flag) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-12s  %s\n", name, clean(fmt.Sprintf(format, args...)))
	}
	line("flag", "%s (%s), version %d, changed %s ago by %s", f.Key, f.Type, f.Version, age(f.UpdatedAt), dash(f.UpdatedBy))
	if f.Description != "" {
		line("about", "%s", f.Description)
	}
	if f.Owner != "" {
		line("owner", "%s", f.Owner)
	}
	if k := f.Killed; k != nil {
		line("KILLED", "by %s, %s ago: %s; everyone gets %s (murmur flag restore %s)", k.By, age(k.When), dash(k.Why), f.Off, f.Key)
	}
	for _, v := range f.Variants {
		line("variant", "%s = %s", v.Name, v.ValueJson)
	}
	line("dial", "%s get %s, the others %s; by %s", percent(f.DialNow), f.On, f.Off, unitName(f.Unit))
	printTargeting(line, f)
	if f.ExpiresAt != nil {
		line("clean up by", "%s", f.ExpiresAt.AsTime().Format(time.DateOnly))
	}
	if len(f.Tags) > 0 {
		line("tags", "%s", strings.Join(f.Tags, ", "))
	}
}

// printTargeting prints what decides before the dial does, or moves it.
func printTargeting(line func(name, format string, args ...any), f *pb.Flag) {
	for _, p := range f.Prerequisites {
		line("needs", "%s to serve %s", p.Flag, strings.Join(p.Variants, " or "))
	}
	if n := len(f.Overrides); n > 0 {
		line("overrides", "%d units", n)
	}
	for i, r := range f.Rules {
		share := "all"
		if r.Dial != nil {
			share = percent(*r.Dial)
		}
		line("rule", "%d %s: %s -> %s for %s", i+1, r.Name, clausesText(r.Clauses), r.Variant, share)
	}
	if s := f.Schedule; s != nil {
		how := "steps"
		if s.Ramp {
			how = "a ramp"
		}
		for _, st := range s.Stages {
			line("schedule", "%s at %s, in %s", percent(st.Dial), st.At.AsTime().Local().Format(time.RFC3339), how)
		}
	}
}

func clausesText(clauses []*pb.FlagClause) string {
	if len(clauses) == 0 {
		return "everyone"
	}
	var parts []string
	for _, c := range clauses {
		not := ""
		if c.Negate {
			not = "not "
		}
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("%s%s %s %s", not, c.Attribute, c.Op, strings.Join(c.ValuesJson, ","))))
	}
	return strings.Join(parts, " and ")
}

func unitName(unit string) string {
	if unit == "" {
		return "targeting key"
	}
	return "attribute " + unit
}

func (a *app) flagEvalCmd() *cobra.Command {
	var req pb.EvaluateFlagRequest
	var attrs []string
	cmd := &cobra.Command{
		Use: "eval KEY", Short: "Ask for a flag as a service would, and say why it answers so", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var err error
			if req.AttributesJson, err = attributesJSON(attrs); err != nil {
				return err
			}
			req.Key = args[0]
			resp, err := c.Flags.EvaluateFlag(ctx, connect.NewRequest(&req))
			if err != nil {
				return err
			}
			m := resp.Msg
			if err := a.show(m, func(w io.Writer) { printAnswer(w, m) }); err != nil || m.ErrorCode == "" {
				return err
			}
			return ErrQuiet
		}),
	}
	cmd.Flags().StringVar(&req.TargetingKey, "unit", "", "the targeting key, for example a user's id")
	cmd.Flags().StringArrayVar(&attrs, "attr", nil, "an attribute as NAME=VALUE; the value is JSON when it reads as such, else text (NAME=\"5\" is text)")
	return cmd
}

func printAnswer(w io.Writer, m *pb.EvaluateFlagResponse) {
	if m.ErrorCode != "" {
		fmt.Fprintf(w, "no answer: %s: %s; the service would use its own default\n", m.ErrorCode, clean(m.ErrorDetails))
		return
	}
	why := m.Reason
	if m.Killed {
		why += ", killed"
	}
	fmt.Fprintf(w, "%s\n  variant %s, because of %s, version %d\n", clean(m.ValueJson), clean(m.Variant), why, m.Version)
}

// attributesJSON makes a JSON object of NAME=VALUE pairs; "" of none.
func attributesJSON(pairs []string) (string, error) {
	if len(pairs) == 0 {
		return "", nil
	}
	attrs := map[string]json.RawMessage{}
	for _, p := range pairs {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return "", fmt.Errorf("%w: --attr %q is not NAME=VALUE", ErrUsage, p)
		}
		raw := json.RawMessage(value)
		if !json.Valid(raw) {
			raw, _ = json.Marshal(value) // text can always be encoded
		}
		attrs[name] = raw
	}
	out, err := json.Marshal(attrs)
	return string(out), err
}

func (a *app) flagUsageCmd() *cobra.Command {
	return &cobra.Command{
		Use: "usage [KEY]", Short: "Show who reads a flag, and which flags nobody reads", Args: cobra.MaximumNArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var req pb.FlagUsageRequest
			if len(args) == 1 {
				req.Key = args[0]
			}
			resp, err := c.Flags.FlagUsage(ctx, connect.NewRequest(&req))
			if err != nil {
				return err
			}
			return a.show(resp.Msg, func(w io.Writer) { printUsage(w, resp.Msg.Uses) })
		}),
	}
}

func printUsage(w io.Writer, uses []*pb.FlagUse) {
	var rows [][]string
	for _, u := range uses {
		rows = append(rows, []string{u.Key, age(u.LastReadAt), counts(u.ByVariant), counts(u.ByClient)})
	}
	table(w, []string{"FLAG", "LAST READ", "VARIANTS (24 H)", "CLIENTS (24 H)"}, rows)
}
