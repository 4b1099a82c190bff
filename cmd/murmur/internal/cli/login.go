package cli

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"os"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/murmuration/murmuration/internal/client"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

// env is the environment with the flags' overrides in it.
func (a *app) env(name string) string {
	switch {
	case name == client.EnvContext && a.contextName != "":
		return a.contextName
	case name == client.EnvServer && a.server != "":
		return a.server
	}
	return a.Getenv(name)
}

func (a *app) loginCmd() *cobra.Command {
	var user, caFile, name string
	cmd := &cobra.Command{
		Use: "login URL", Short: "Log in with a password and store the context", Args: cobra.ExactArgs(1),
		Long: "Log in and store server, CA and session as a context. The password is asked for, or read from standard input.\n" +
			"--ca names the fleet's CA certificate (PEM); `murmur up` writes it to its folder as ca.pem.",
		RunE: func(cmd *cobra.Command, args []string) error {
			target := client.Context{Servers: []string{args[0]}}
			if caFile != "" {
				ca, err := os.ReadFile(caFile)
				if err != nil {
					return fmt.Errorf("read the CA: %w", err)
				}
				target.CA = certificates(ca)
			}
			password, err := a.readPassword("password for " + user + ": ")
			if err != nil {
				return err
			}
			stored, err := Login(cmd.Context(), target, user, password)
			if err != nil {
				return err
			}
			if err := a.store(name, stored); err != nil {
				return err
			}
			fmt.Fprintf(a.Stderr, "logged in to %s as %s (context %q)\n", args[0], user, name)
			return nil
		},
	}
	cmd.Flags().StringVarP(&user, "user", "u", "admin", "who you are")
	cmd.Flags().StringVar(&caFile, "ca", "", "file with the fleet's CA certificate")
	cmd.Flags().StringVar(&name, "name", "default", "name of the context")
	return cmd
}

// certificates keeps only the certificates of a PEM file: a CA file may hold the key too, which must not be copied.
func certificates(data []byte) string {
	var out []byte
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, pem.EncodeToMemory(block)...)
		}
	}
	return string(out)
}

// Login trades a password for a session and returns the context that uses it.
func Login(ctx context.Context, target client.Context, user, password string) (client.Context, error) {
	c, err := client.New(target)
	if err != nil {
		return target, err
	}
	defer c.Close()
	resp, err := c.Identity.Login(ctx, connect.NewRequest(&pb.LoginRequest{User: user, Password: password}))
	if err != nil {
		return target, err
	}
	target.Token, target.User = resp.Msg.Token, user
	return target, nil
}

func (a *app) store(name string, ctx client.Context) error {
	path, err := client.Path(a.env)
	if err != nil {
		return err
	}
	cfg, err := client.LoadConfig(path)
	if err != nil {
		return err
	}
	cfg.Set(name, ctx)
	return cfg.Save()
}

func (a *app) logoutCmd() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "End the session of the current context", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			if _, err := c.Identity.Logout(ctx, connect.NewRequest(&pb.LogoutRequest{})); err != nil {
				return err
			}
			fmt.Fprintln(a.Stderr, "logged out")
			return nil
		}),
	}
}

func (a *app) contextCmd() *cobra.Command {
	return group("context", "Stored contexts: which fleet you talk to",
		&cobra.Command{
			Use: "list", Short: "List contexts", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				cfg, err := a.config()
				if err != nil {
					return err
				}
				return a.showValue(cfg.Names(), func(w io.Writer) {
					var rows [][]string
					for _, n := range cfg.Names() {
						ctx := cfg.Contexts[n]
						rows = append(rows, []string{n, yesNo(n == cfg.Current), fmt.Sprint(ctx.Servers), ctx.User})
					}
					table(w, []string{"CONTEXT", "CURRENT", "SERVERS", "USER"}, rows)
				})
			},
		},
		&cobra.Command{
			Use: "use CONTEXT", Short: "Make a context the current one", Args: cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				cfg, err := a.config()
				if err != nil {
					return err
				}
				if _, ok := cfg.Contexts[args[0]]; !ok {
					return fmt.Errorf("there is no context %q; there are %v", args[0], cfg.Names())
				}
				cfg.Current = args[0]
				return cfg.Save()
			},
		},
	)
}

func (a *app) config() (*client.Config, error) {
	path, err := client.Path(a.env)
	if err != nil {
		return nil, err
	}
	return client.LoadConfig(path)
}
