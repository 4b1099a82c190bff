package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/murmuration/murmuration/cmd/murmur/internal/builder"
	"github.com/murmuration/murmuration/hooks"
	"github.com/murmuration/murmuration/internal/build"
	"github.com/murmuration/murmuration/internal/client"
	"github.com/murmuration/murmuration/internal/identity"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

func (a *app) hooksCmd() *cobra.Command {
	status := &cobra.Command{
		Use: "status [REPO]", Short: "Show how the hooks of a repository stand", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := hooks.Status(cmd.Context(), hooks.Options{Repo: repoArg(args)})
			if err != nil {
				return err
			}
			return a.showHooks(list)
		},
	}
	uninstall := &cobra.Command{
		Use: "uninstall [REPO]", Short: "Remove the hooks and put earlier ones back", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return hooks.Uninstall(cmd.Context(), repoArg(args)) },
	}
	return group("hooks", "Git hooks that build what is committed and pushed", a.hooksInstallCmd(), status, uninstall, a.hooksRunCmd(), a.hooksDrainCmd())
}

func repoArg(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return "."
}

func (a *app) showHooks(list []hooks.HookStatus) error {
	return a.showValue(list, func(w io.Writer) {
		var rows [][]string
		for _, h := range list {
			rows = append(rows, []string{h.Name, yesNo(h.Installed), yesNo(h.Current), yesNo(h.Chained), yesNo(h.Foreign), h.Path})
		}
		table(w, []string{"HOOK", "INSTALLED", "CURRENT", "CHAINED", "FOREIGN", "PATH"}, rows)
	})
}

func (a *app) hooksInstallCmd() *cobra.Command {
	var o hooks.Options
	var bare bool
	cmd := &cobra.Command{
		Use: "install [REPO]", Short: "Install post-commit or post-receive, with a token and a builder key of their own", Args: cobra.MaximumNArgs(1),
		Long: "Install the hooks that suit the repository: post-receive in a bare one, post-commit in one with a work tree.\n" +
			"The builder gets an API token (role developer) in its state folder, and its key is trusted when you may do\n" +
			"that. An earlier hook is kept and runs first.",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Repo = repoArg(args)
			if o.State == "" {
				var err error
				if o.State, err = builder.StateDir(a.Getenv); err != nil {
					return err
				}
			}
			if !bare {
				if err := a.equipBuilder(cmd.Context(), &o); err != nil {
					return err
				}
			}
			list, err := hooks.Install(cmd.Context(), o)
			if err != nil {
				return err
			}
			return a.showHooks(list)
		},
	}
	cmd.Flags().StringVar(&o.State, "state", "", "the builder's state folder; default this user's")
	cmd.Flags().StringVar(&o.RepoName, "name", "", "the repository's name in releases; default its folder's")
	cmd.Flags().StringSliceVar(&o.Refs, "ref", nil, "refs to build; default refs/heads/main and refs/heads/master")
	cmd.Flags().BoolVar(&o.Shared, "shared", false, "write to a hooks folder that other repositories share")
	cmd.Flags().BoolVar(&bare, "hooks-only", false, "make no token and trust no key: both are there already")
	return cmd
}

// equipBuilder gives the builder what it needs to publish: a token in its state folder and a trusted key.
func (a *app) equipBuilder(ctx context.Context, o *hooks.Options) error {
	key, err := builder.Key(o.State)
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return fmt.Errorf("%w\n(with --hooks-only the control plane is not asked)", err)
	}
	o.Server = c.URL()
	if err := a.storeBuilderToken(ctx, c, o.State); err != nil {
		return err
	}
	return a.trustBuilder(ctx, c, key)
}

// builderConfig is the builder's own client configuration, below its state folder.
func builderConfig(state string) string { return filepath.Join(state, "config.json") }

func (a *app) storeBuilderToken(ctx context.Context, c *client.Client, state string) error {
	cfg, err := client.LoadConfig(builderConfig(state))
	if err != nil {
		return err
	}
	own, err := client.Load(a.env)
	if err != nil {
		return err
	}
	if _, ok := cfg.Contexts["builder"]; ok && cfg.Contexts["builder"].Servers[0] == own.Servers[0] {
		return nil // equipped for this control plane before
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	name := "builder@" + host[:min(len(host), 56)] // names of tokens have at most 64 bytes
	resp, err := c.Identity.CreateToken(ctx, connect.NewRequest(&pb.CreateTokenRequest{
		Name: name, Role: identity.Developer.String(), Ttl: durationpb.New(365 * 24 * time.Hour),
	}))
	if err != nil {
		return fmt.Errorf("make a token for the builder: %w", err)
	}
	own.Token, own.User = resp.Msg.Token, name
	cfg.Set("builder", own)
	return cfg.Save()
}

func (a *app) trustBuilder(ctx context.Context, c *client.Client, key *identity.Signer) error {
	list, err := c.Identity.ListBuilders(ctx, connect.NewRequest(&pb.ListBuildersRequest{}))
	if err != nil {
		return err
	}
	for _, b := range list.Msg.Builders {
		if b.KeyId == key.KeyID() {
			return nil
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	_, err = c.Identity.AddBuilder(ctx, connect.NewRequest(&pb.AddBuilderRequest{Builder: &pb.Builder{
		Name: host, PublicKey: key.Public(), NotAfter: timestamppb.New(time.Now().Add(365 * 24 * time.Hour)),
	}}))
	if connect.CodeOf(err) == connect.CodePermissionDenied {
		fmt.Fprintf(a.Stderr, "the key of this builder is not trusted yet; an admin has to run:\n  murmur builder add %s --public-key %x\n", host, key.Public())
		return nil
	}
	if err == nil {
		fmt.Fprintf(a.Stderr, "the fleet now trusts this builder's key %s\n", key.KeyID())
	}
	return err
}

func (a *app) hooksRunCmd() *cobra.Command {
	return &cobra.Command{
		Use: "run HOOK [ARG...]", Short: "What an installed hook runs", Args: cobra.MinimumNArgs(1), Hidden: true, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return hooks.Run(cmd.Context(), hooks.Call{
				Name: args[0], Args: args[1:], Stdin: a.Stdin, Stderr: a.Stderr, Log: slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
			})
		},
	}
}

func (a *app) hooksDrainCmd() *cobra.Command {
	var gitDir, state string
	cmd := &cobra.Command{
		Use: "drain", Short: "Build everything that waits in a repository's queue", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.builderClient(state)
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(a.Stderr, nil))
			b, err := builder.New(state, "", c, log)
			if err != nil {
				return err
			}
			return hooks.Drain(cmd.Context(), gitDir, state, log, func(logs string) build.Runner {
				b.Logs = logs
				return b
			})
		},
	}
	cmd.Flags().StringVar(&gitDir, "repo", "", "the repository's git folder")
	cmd.Flags().StringVar(&state, "state", "", "the builder's state folder")
	return cmd
}

// builderClient connects as the builder: with the token of its state folder, or as whoever runs this.
func (a *app) builderClient(state string) (*client.Client, error) {
	own := builderConfig(state)
	if _, err := os.Stat(own); err != nil || a.Getenv(client.EnvConfig) != "" {
		return a.client()
	}
	cfg, err := client.Load(func(name string) string {
		if name == client.EnvConfig {
			return own
		}
		return a.env(name)
	})
	if err != nil {
		return nil, err
	}
	return client.New(cfg)
}

// releaseBuildCmd builds in the foreground what a hook would build behind a push.
func (a *app) releaseBuildCmd() *cobra.Command {
	var req build.Request
	var state string
	cmd := &cobra.Command{
		Use: "build [REPO]", Short: "Build, sign and publish a commit, in the foreground", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.releaseBuild(cmd.Context(), repoArg(args), state, req)
		},
	}
	cmd.Flags().StringVar(&req.Commit, "commit", "HEAD", "what to build")
	cmd.Flags().StringVar(&req.Ref, "ref", "", "the ref to sign for; default the branch that is checked out")
	cmd.Flags().StringVar(&state, "state", "", "the builder's state folder; default this user's")
	return cmd
}

func (a *app) releaseBuild(ctx context.Context, repo, state string, req build.Request) (err error) {
	if state == "" {
		if state, err = builder.StateDir(a.Getenv); err != nil {
			return err
		}
	}
	if req.Repo, err = filepath.Abs(repo); err != nil {
		return err
	}
	if req.Commit, req.Ref, err = hooks.Resolve(ctx, req.Repo, req.Commit, req.Ref); err != nil {
		return err
	}
	c, err := a.builderClient(state)
	if err != nil {
		return err
	}
	b, err := builder.New(state, filepath.Join(state, "logs"), c, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if !a.json {
		b.Echo = a.Stderr
	}
	req.QueuedAt = time.Now().UTC()
	result, err := b.Build(ctx, req)
	if err != nil {
		return err
	}
	return a.showValue(result.Build, func(w io.Writer) {
		note := ""
		if result.Already {
			note = " (published before)"
		}
		fmt.Fprintf(w, "release %s of %s%s\nroll it out: murmur rollout start %s %s\n", result.Build.ReleaseID, result.Build.Service, note, result.Build.Service, result.Build.ReleaseID)
	})
}
