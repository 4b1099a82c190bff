package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/murmuration/murmuration/agent"
	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/version"
)

// flags are those of all commands.
type flags struct {
	root, config, name, log, http string
	seeders, labels, listen       []string
	swarmListen, advertise        string
	upMbit, downMbit              float64
	token, tokenFile, to, reason  string
	asJSON                        bool
}

// newRoot builds the command tree.
func newRoot(getenv func(string) string, stdout, stderr io.Writer) *cobra.Command {
	f := new(flags)
	root := &cobra.Command{
		Use: "murmur-agent", Short: "The host's side of Murmuration", SilenceUsage: true, SilenceErrors: true,
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.PersistentFlags().StringVar(&f.root, "root", cmp.Or(getenv("MURMUR_AGENT_ROOT"), "/var/lib/murmur-agent"), "the agent's folder (MURMUR_AGENT_ROOT)")
	root.PersistentFlags().StringVar(&f.config, "config", "", "configuration file (default ROOT/.murmur/agent.yaml)")
	root.AddCommand(runCommand(f), joinCommand(f, getenv), statusCommand(f), rollbackCommand(f), resumeCommand(f), versionCommand())
	return root
}

func runCommand(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use: "run", Short: "Run the agent until it is told to end; services keep running", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load()
			if err != nil {
				return err
			}
			return serve(cmd.Context(), f.root, cfg, cmd.ErrOrStderr())
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.name, "name", "", "name for people (default the host's)")
	fl.StringSliceVar(&f.seeders, "seeder", nil, "base URL of a seeder, may be repeated")
	fl.StringSliceVar(&f.labels, "label", nil, "key=value, may be repeated")
	fl.StringSliceVar(&f.listen, "listen", nil, "service/port=host:port in place of the recipe's, may be repeated")
	fl.StringVar(&f.swarmListen, "swarm-listen", "", "host:port for peers, port 0 picks one")
	fl.StringVar(&f.advertise, "advertise", "", "host:port that peers are told")
	fl.Float64Var(&f.upMbit, "up-mbit", 0, "cap on what is sent to peers, Mbit/s")
	fl.Float64Var(&f.downMbit, "down-mbit", 0, "cap on what is fetched, Mbit/s")
	fl.StringVar(&f.http, "http", "", "loopback address for /metrics, /healthz and /readyz")
	fl.StringVar(&f.log, "log", "", "debug, info, warn or error")
	return c
}

func (f *flags) load() (config, error) {
	cfg, err := loadConfig(f.root, f.config)
	if err != nil {
		return cfg, err
	}
	return cfg, cfg.merge(*f)
}

func joinCommand(f *flags, getenv func(string) string) *cobra.Command {
	c := &cobra.Command{
		Use: "join [URL [TOKEN]]", Short: "Make this machine a host of a fleet, with a one-time token", Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				f.seeders = args[:1]
			}
			if len(args) > 1 {
				f.token = args[1]
			}
			token, err := f.readToken(getenv, cmd.InOrStdin())
			if err != nil {
				return err
			}
			if len(f.seeders) != 1 {
				return errors.New("say which seeder to join: --seeder https://HOST:PORT")
			}
			labels, err := pairs(f.labels)
			if err != nil {
				return err
			}
			name := f.name
			if name == "" {
				if name, err = os.Hostname(); err != nil {
					return fmt.Errorf("host name: %w", err)
				}
			}
			if err := os.MkdirAll(filepath.Join(f.root, ".murmur"), 0o755); err != nil {
				return err
			}
			store, err := identity.Join(cmd.Context(), identityDir(f.root), f.seeders[0], token, name, labels)
			if err != nil {
				return err
			}
			if err := saveConfig(f.root, config{Name: name, Labels: labels}); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "joined as %s (%s); now: murmur-agent run --root %s\n", name, store.HostID(), f.root)
			return nil
		},
	}
	c.Flags().StringSliceVar(&f.seeders, "seeder", nil, "base URL of the seeder")
	c.Flags().StringVar(&f.token, "token", "", "one-time token; better by MURMUR_JOIN_TOKEN or --token-file, which other users cannot see")
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "file with the token, - for standard input")
	c.Flags().StringVar(&f.name, "name", "", "name for people (default the host's)")
	c.Flags().StringSliceVar(&f.labels, "label", nil, "key=value, may be repeated")
	return c
}

func (f *flags) readToken(getenv func(string) string, stdin io.Reader) (string, error) {
	var b []byte
	var err error
	switch f.tokenFile {
	case "":
		b = []byte(cmp.Or(f.token, getenv("MURMUR_JOIN_TOKEN")))
	case "-":
		b, err = io.ReadAll(io.LimitReader(stdin, 4<<10))
	default:
		b, err = os.ReadFile(f.tokenFile)
	}
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", errors.New("a join token is needed: --token, --token-file or MURMUR_JOIN_TOKEN; `murmur join-token create` makes one")
	}
	return token, nil
}

func (f *flags) local() (*agent.Local, error) {
	cfg, err := f.load()
	if err != nil {
		return nil, err
	}
	return agent.NewLocal(agent.Config{Root: f.root, Listen: cfg.Listen, Metrics: cfg.Metrics, Version: version.Version})
}

func statusCommand(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use: "status", Short: "Show what runs on this host, with or without an agent or a network", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := f.local()
			if err != nil {
				return err
			}
			s, err := l.Status(cmd.Context())
			if err != nil {
				return err
			}
			if f.asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(s)
			}
			return printStatus(cmd.OutOrStdout(), s)
		},
	}
	c.Flags().BoolVar(&f.asJSON, "json", false, "as JSON")
	return c
}

func printStatus(w io.Writer, s agent.Status) error {
	switch {
	case !s.Running:
		fmt.Fprintln(w, "no agent runs; this is what the disk says")
	case s.Seeder == "":
		fmt.Fprintf(w, "host %s, not attached to a seeder\n", s.Host)
	default:
		fmt.Fprintf(w, "host %s, attached to %s\n", s.Host, s.Seeder)
	}
	if s.Stopped != "" {
		fmt.Fprintln(w, "EMERGENCY STOP:", s.Stopped)
	}
	if s.Drained {
		fmt.Fprintln(w, "drained")
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SERVICE\tSTATE\tACTIVE\tPREVIOUS\tRESTARTS\tDETAIL")
	for _, v := range s.Services {
		detail := v.Detail
		if len(v.Drifted) > 0 {
			detail = strings.TrimPrefix(fmt.Sprintf("%s; %d files changed since they were unpacked", detail, len(v.Drifted)), "; ")
		}
		if v.Pin != "" {
			detail = strings.TrimPrefix(detail+"; "+v.Pin, "; ")
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%s\n", v.Service, v.State, cmp.Or(v.Active, "-"), cmp.Or(v.Previous, "-"), v.Restarts, detail)
	}
	return tw.Flush()
}

func rollbackCommand(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use: "rollback SERVICE", Short: "Take a service back to its previous release, with no network",
		Long: "Rollback takes a service back to the release that ran before, or to --to, and waits until it is healthy.\n" +
			"It holds against the control plane until that wants another release than now, or until `murmur-agent resume SERVICE`.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := f.local()
			if err != nil {
				return err
			}
			if err := l.Rollback(cmd.Context(), args[0], f.to, f.reason); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is back and healthy; it stays there until the control plane wants another release or you run: murmur-agent resume %s\n", args[0], args[0])
			return nil
		},
	}
	c.Flags().StringVar(&f.to, "to", "", "release id (default the previous one)")
	c.Flags().StringVar(&f.reason, "reason", "", "why, for the record")
	return c
}

func resumeCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use: "resume SERVICE", Short: "End the hold of a local rollback and obey the control plane again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := f.local()
			if err != nil {
				return err
			}
			return l.Resume(cmd.Context(), args[0])
		},
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version.Version)
			return err
		},
	}
}
