package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/murmuration/murmuration/cmd/murmur/internal/builder"
	"github.com/murmuration/murmuration/internal/client"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

func (a *app) builderCmd() *cobra.Command {
	return group("builder", "Builders: whose signatures the fleet trusts",
		&cobra.Command{
			Use: "key", Short: "Show this machine's builder key, making it the first time", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				state, err := builder.StateDir(a.Getenv)
				if err != nil {
					return err
				}
				key, err := builder.Key(state)
				if err != nil {
					return err
				}
				info := keyInfo{key.KeyID(), hex.EncodeToString(key.Public())}
				return a.showValue(info, func(w io.Writer) {
					fmt.Fprintf(w, "key id      %s\npublic key  %s\ntrust it    murmur builder add NAME --public-key %s\n", info.KeyID, info.PublicKey, info.PublicKey)
				})
			},
		},
		a.builderAddCmd(),
		&cobra.Command{Use: "list", Short: "List the keys that were ever trusted", Args: cobra.NoArgs, RunE: a.with(a.builderList)},
		a.builderRevokeCmd(),
	)
}

type keyInfo struct {
	KeyID     string `json:"key_id"`
	PublicKey string `json:"public_key"`
}

func (a *app) builderAddCmd() *cobra.Command {
	b := &pb.Builder{}
	var public string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use: "add NAME --public-key HEX", Short: "Trust a builder's key, for some services and refs or for all", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			key, err := hex.DecodeString(public)
			if err != nil || len(key) != 32 {
				return fmt.Errorf("%w: --public-key must be 64 hexadecimal digits, as `murmur builder key` prints them", ErrUsage)
			}
			b.Name, b.PublicKey = args[0], key
			b.NotAfter = timestamppb.New(time.Now().Add(ttl))
			resp, err := c.Identity.AddBuilder(ctx, connect.NewRequest(&pb.AddBuilderRequest{Builder: b}))
			if err != nil {
				return err
			}
			return a.show(resp.Msg.Builder, func(w io.Writer) { fmt.Fprintf(w, "trusted: %s\n", resp.Msg.Builder.KeyId) })
		}),
	}
	cmd.Flags().StringVar(&public, "public-key", "", "64 hexadecimal digits (required)")
	_ = cmd.MarkFlagRequired("public-key")
	cmd.Flags().StringSliceVar(&b.Services, "service", nil, "services it may sign for; default all")
	cmd.Flags().StringSliceVar(&b.Refs, "ref", nil, "refs it may sign for, for example refs/heads/main; default all")
	cmd.Flags().DurationVar(&ttl, "ttl", 365*24*time.Hour, "how long it is trusted")
	return cmd
}

func (a *app) builderList(ctx context.Context, c *client.Client, _ []string) error {
	resp, err := c.Identity.ListBuilders(ctx, connect.NewRequest(&pb.ListBuildersRequest{}))
	if err != nil {
		return err
	}
	return a.show(resp.Msg, func(w io.Writer) {
		var rows [][]string
		for _, b := range resp.Msg.Builders {
			rows = append(rows, []string{b.KeyId, b.Name, orAll(b.Services), orAll(b.Refs), b.NotAfter.AsTime().Format(time.DateOnly), yesNo(b.Revoked)})
		}
		table(w, []string{"KEY", "NAME", "SERVICES", "REFS", "UNTIL", "REVOKED"}, rows)
	})
}

// orAll renders a list of patterns that is empty when everything is meant.
func orAll(patterns []string) string {
	if len(patterns) == 0 {
		return "all"
	}
	return strings.Join(patterns, ",")
}

func (a *app) builderRevokeCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "revoke KEY", Short: "End the trust in a key: no host installs what it signed any more", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			_, err := c.Identity.RevokeBuilder(ctx, connect.NewRequest(&pb.RevokeBuilderRequest{KeyId: args[0], Reason: reason}))
			return err
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}
