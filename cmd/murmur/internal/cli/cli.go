// Package cli is the command line of murmur: the grammar `murmur <noun> <verb>`, its tables, its JSON and its
// errors. It decides nothing: every command is one or two calls of the API and a way to show the answer.
//
// What changes a fleet shows its plan first and asks; `--yes` skips the question and `--dry-run` stops after
// the plan. Without a terminal there is nobody to ask, so nothing changes without --yes. The ways back
// (rollback, stop) never ask. Every command takes --json.
package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/murmuration/murmuration/internal/client"
	"github.com/murmuration/murmuration/internal/version"
)

// Env is what a command may touch of the outside world.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
}

// ErrUsage marks a command line that cannot be understood; the exit code is 2.
var ErrUsage = errors.New("usage")

// ErrQuiet ends a command with exit code 1 when everything there is to say has been said.
var ErrQuiet = errors.New("failed")

// app is one run of the command line.
type app struct {
	Env
	json   bool
	yes    bool
	dryRun bool
	// server, token and contextName override the stored context.
	server, contextName string
	api                 *client.Client
}

// New builds the whole command tree.
func New(env Env) *cobra.Command {
	a := &app{Env: env}
	root := &cobra.Command{
		Use:   "murmur",
		Short: "Move a fleet of hosts the way a flock turns",
		Long: "murmur deploys releases to a fleet: a commit becomes a signed artifact, a swarm carries it to every host,\n" +
			"a dial decides how many run it, and there is always a way back.\n\n" +
			"Start with `murmur demo`, or `murmur up` for a control plane of your own.",
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs, // an unknown noun arrives in RunE, which knows what was meant
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%w: murmur has no noun %q%s\nsee: murmur --help", ErrUsage, args[0], suggest(cmd, args[0]))
			}
			return cmd.Help()
		},
	}
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w: %v\nsee: %s --help", ErrUsage, err, cmd.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.BoolVar(&a.json, "json", false, "print JSON for machines")
	flags.StringVar(&a.server, "server", "", "API address, instead of the stored one (also $MURMUR_SERVER)")
	flags.StringVar(&a.contextName, "context", "", "stored context to use (see murmur context list)")
	root.AddCommand(
		a.releaseCmd(), a.buildCmd(), a.rolloutCmd(), a.serviceCmd(), a.hostCmd(), a.fleetCmd(),
		a.flagCmd(), a.segmentCmd(),
		a.userCmd(), a.tokenCmd(), a.builderCmd(), a.joinCmd(), a.auditCmd(),
		a.loginCmd(), a.logoutCmd(), a.whoamiCmd(), a.contextCmd(), a.hooksCmd(),
		a.upCmd(), a.seederCmd(), a.flagdCmd(), a.demoCmd(),
	)
	markUsage(root)
	return root
}

// markUsage makes missing and surplus arguments and missing flags errors of usage, like unknown flags are.
func markUsage(cmd *cobra.Command) {
	usage := func(cmd *cobra.Command, err error) error {
		if err == nil || errors.Is(err, ErrUsage) {
			return err
		}
		return fmt.Errorf("%w: %v\nsee: %s --help", ErrUsage, err, cmd.CommandPath())
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error { return usage(cmd, check(cmd, args)) }
	}
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error { return usage(cmd, cmd.ValidateRequiredFlags()) }
	for _, c := range cmd.Commands() {
		markUsage(c)
	}
}

// client connects to the API on first use.
func (a *app) client() (*client.Client, error) {
	if a.api != nil {
		return a.api, nil
	}
	cfg, err := client.Load(a.env)
	if err != nil {
		return nil, err
	}
	a.api, err = client.New(cfg)
	return a.api, err
}

// with runs fn with a connected client.
func (a *app) with(fn func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		return fn(cmd.Context(), c, args)
	}
}

// changing gives a command the flags of those that show a plan first.
func (a *app) changing(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVarP(&a.yes, "yes", "y", false, "do it without asking")
	cmd.Flags().BoolVar(&a.dryRun, "dry-run", false, "show the plan and change nothing")
	return cmd
}

// confirm asks whether to go on with what was shown. It answers false after a dry run; without a terminal it
// is an error that says how to go on.
func (a *app) confirm(question string) (bool, error) {
	switch {
	case a.dryRun:
		fmt.Fprintln(a.Stderr, "dry run: nothing was changed")
		return false, nil
	case a.yes:
		return true, nil
	}
	in, ok := a.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return false, fmt.Errorf("nothing was changed: there is no terminal to ask on; repeat with --yes")
	}
	fmt.Fprintf(a.Stderr, "%s [y/N] ", question)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil {
		return false, fmt.Errorf("nothing was changed: %w", err)
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		fmt.Fprintln(a.Stderr, "nothing was changed")
		return false, nil
	}
	return true, nil
}

// group makes a noun: a command that only holds verbs.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%w: murmur %s has no verb %q%s\nsee: murmur %s --help", ErrUsage, cmd.Name(), args[0], suggest(cmd, args[0]), cmd.Name())
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(verbs...)
	return cmd
}

func suggest(cmd *cobra.Command, word string) string {
	cmd.SuggestionsMinimumDistance = 2
	if s := cmd.SuggestionsFor(word); len(s) > 0 {
		return fmt.Sprintf(" (did you mean %s?)", strings.Join(s, " or "))
	}
	return ""
}
