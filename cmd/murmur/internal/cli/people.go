package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/murmuration/murmuration/internal/client"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

func (a *app) userCmd() *cobra.Command {
	return group("user", "People and their roles", a.userPutCmd(),
		&cobra.Command{
			Use: "list", Short: "List users", Args: cobra.NoArgs,
			RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
				resp, err := c.Identity.ListUsers(ctx, connect.NewRequest(&pb.ListUsersRequest{}))
				if err != nil {
					return err
				}
				return a.show(resp.Msg, func(w io.Writer) {
					var rows [][]string
					for _, u := range resp.Msg.Users {
						rows = append(rows, []string{u.Name, u.Role, dash(u.Email), yesNo(u.Disabled), age(u.CreatedAt)})
					}
					table(w, []string{"USER", "ROLE", "EMAIL", "DISABLED", "AGE"}, rows)
				})
			}),
		},
		&cobra.Command{
			Use: "remove USER", Short: "Remove a user and end their sessions", Args: cobra.ExactArgs(1),
			RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
				_, err := c.Identity.RemoveUser(ctx, connect.NewRequest(&pb.RemoveUserRequest{Name: args[0]}))
				return err
			}),
		},
	)
}

func (a *app) userPutCmd() *cobra.Command {
	u := &pb.User{}
	var ask bool
	cmd := &cobra.Command{
		Use: "set USER --role ROLE", Short: "Create or change a user; the password is read from the terminal or standard input", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			u.Name = args[0]
			req := &pb.PutUserRequest{User: u}
			if ask {
				password, err := a.readPassword("password for " + u.Name + ": ")
				if err != nil {
					return err
				}
				req.Password = password
			}
			resp, err := c.Identity.PutUser(ctx, connect.NewRequest(req))
			if err != nil {
				return err
			}
			return a.show(resp.Msg.User, func(w io.Writer) { fmt.Fprintf(w, "%s is %s\n", clean(u.Name), resp.Msg.User.Role) })
		}),
	}
	cmd.Flags().StringVar(&u.Role, "role", "", "viewer, developer, release-manager, ops or admin")
	cmd.Flags().StringVar(&u.Email, "email", "", "address")
	cmd.Flags().BoolVar(&u.Disabled, "disabled", false, "refuse log-ins")
	cmd.Flags().BoolVar(&ask, "password", true, "set the password (false keeps it)")
	return cmd
}

// readPassword reads one line without echo; from standard input when that is no terminal.
func (a *app) readPassword(prompt string) (string, error) {
	if in, ok := a.Stdin.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		fmt.Fprint(a.Stderr, prompt)
		b, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(a.Stderr)
		return string(b), err
	}
	line, err := bufio.NewReader(io.LimitReader(a.Stdin, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
}

func (a *app) tokenCmd() *cobra.Command {
	var role string
	var ttl time.Duration
	create := &cobra.Command{
		Use: "create NAME --role ROLE", Short: "Create an API token for a service or a hook; it is shown once", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			resp, err := c.Identity.CreateToken(ctx, connect.NewRequest(&pb.CreateTokenRequest{Name: args[0], Role: role, Ttl: durationpb.New(ttl)}))
			if err != nil {
				return err
			}
			return a.show(resp.Msg, func(w io.Writer) { fmt.Fprintln(w, resp.Msg.Token) })
		}),
	}
	create.Flags().StringVar(&role, "role", "developer", "at most your own")
	create.Flags().DurationVar(&ttl, "ttl", 90*24*time.Hour, "how long it is valid")
	return group("token", "API tokens", create,
		&cobra.Command{
			Use: "list", Short: "List tokens, without their secrets", Args: cobra.NoArgs,
			RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
				resp, err := c.Identity.ListTokens(ctx, connect.NewRequest(&pb.ListTokensRequest{}))
				if err != nil {
					return err
				}
				return a.show(resp.Msg, func(w io.Writer) {
					var rows [][]string
					for _, t := range resp.Msg.Tokens {
						rows = append(rows, []string{t.Id, t.Name, t.Role, t.Owner, age(t.CreatedAt), age(t.LastUsedAt)})
					}
					table(w, []string{"TOKEN", "NAME", "ROLE", "OWNER", "AGE", "LAST USED"}, rows)
				})
			}),
		},
		&cobra.Command{
			Use: "revoke TOKEN", Short: "Revoke a token by its id", Args: cobra.ExactArgs(1),
			RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
				_, err := c.Identity.RevokeToken(ctx, connect.NewRequest(&pb.RevokeTokenRequest{Id: args[0]}))
				return err
			}),
		},
	)
}

func (a *app) joinCmd() *cobra.Command {
	req := &pb.CreateJoinTokenRequest{}
	var ttl time.Duration
	var labels map[string]string
	create := &cobra.Command{
		Use: "create", Short: "Create a one-time token with which one host joins", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			req.Ttl, req.Labels = durationpb.New(ttl), labels
			resp, err := c.Identity.CreateJoinToken(ctx, connect.NewRequest(req))
			if err != nil {
				return err
			}
			return a.show(resp.Msg, func(w io.Writer) {
				fmt.Fprintln(w, resp.Msg.Token)
				fmt.Fprintf(a.Stderr, "on the host: murmur-agent join --seeder %s --token TOKEN\n", c.URL())
			})
		}),
	}
	create.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is valid, at most 7 days")
	create.Flags().StringToStringVar(&labels, "label", nil, "labels the host gets, for example rack=r1,dc=a")
	create.Flags().StringVar(&req.HostName, "host", "", "only a host of this name may use it")
	return group("join-token", "One-time tokens with which hosts join", create)
}

func (a *app) auditCmd() *cobra.Command {
	req := &pb.ListAuditRequest{}
	list := &cobra.Command{
		Use: "list", Short: "Who changed what, newest first", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			resp, err := c.Identity.ListAudit(ctx, connect.NewRequest(req))
			if err != nil {
				return err
			}
			return a.show(resp.Msg, func(w io.Writer) {
				var rows [][]string
				for _, r := range resp.Msg.Records {
					rows = append(rows, []string{fmt.Sprint(r.Seq), r.At.AsTime().Local().Format(time.DateTime), r.Who, r.What, r.Object, r.Why})
				}
				table(w, []string{"SEQ", "AT", "WHO", "WHAT", "OBJECT", "WHY"}, rows)
			})
		}),
	}
	list.Flags().Int32Var(&req.Limit, "limit", 50, "how many, at most 1000")
	list.Flags().Int64Var(&req.Before, "before", 0, "go on before this record")
	list.Flags().StringVar(&req.Object, "object", "", "only objects that start so, for example rollout/web")
	return group("audit", "The record of every change", list,
		&cobra.Command{Use: "export", Short: "Write the whole record as JSON lines, oldest last", Args: cobra.NoArgs, RunE: a.with(a.auditExport)},
		&cobra.Command{
			Use: "verify", Short: "Check that no record was changed or removed", Args: cobra.NoArgs,
			RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
				resp, err := c.Identity.VerifyAudit(ctx, connect.NewRequest(&pb.VerifyAuditRequest{}))
				if err != nil {
					return err
				}
				if resp.Msg.FirstBad != 0 {
					return fmt.Errorf("the audit chain is broken at record %d of %d: %s", resp.Msg.FirstBad, resp.Msg.Records, resp.Msg.Error)
				}
				return a.show(resp.Msg, func(w io.Writer) { fmt.Fprintf(w, "%d records, the chain holds\n", resp.Msg.Records) })
			}),
		},
	)
}

func (a *app) auditExport(ctx context.Context, c *client.Client, _ []string) error {
	for before := int64(0); ; {
		resp, err := c.Identity.ListAudit(ctx, connect.NewRequest(&pb.ListAuditRequest{Limit: 1000, Before: before}))
		if err != nil {
			return err
		}
		for _, r := range resp.Msg.Records {
			if err := a.line(r); err != nil {
				return err
			}
			before = r.Seq
		}
		if len(resp.Msg.Records) < 1000 {
			return nil
		}
	}
}

func (a *app) whoamiCmd() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Say who you are to the control plane", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			resp, err := c.Identity.WhoAmI(ctx, connect.NewRequest(&pb.WhoAmIRequest{}))
			if err != nil {
				return err
			}
			return a.show(resp.Msg, func(w io.Writer) {
				fmt.Fprintf(w, "%s, %s, at %s (version %s)\n", clean(resp.Msg.User.Name), resp.Msg.User.Role, c.URL(), resp.Msg.Version)
			})
		}),
	}
}
