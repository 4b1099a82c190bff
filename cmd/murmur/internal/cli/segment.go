package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/client"
	"github.com/murmuration/murmuration/internal/wire"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

func (a *app) segmentCmd() *cobra.Command {
	return group("segment", "Segments: named sets of callers that flags' rules use",
		&cobra.Command{Use: "list", Short: "List segments", Args: cobra.NoArgs, RunE: a.with(a.segmentList)},
		&cobra.Command{
			Use: "show KEY", Short: "Print a segment's definition, in the form that `murmur segment set -f` reads", Args: cobra.ExactArgs(1),
			RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
				m, err := getSegment(ctx, c, args[0])
				if err != nil {
					return err
				}
				s, err := wire.ToFlagSegment(m)
				if err != nil {
					return err
				}
				text, err := json.MarshalIndent(s, "", "  ")
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(a.Stdout, "%s\n", text)
				return err
			}),
		},
		a.segmentSetCmd(), a.segmentDeleteCmd(),
	)
}

// errNoSegment is what getSegment fails with when there is none of that key.
var errNoSegment = errors.New("no such segment: murmur segment list")

func getSegment(ctx context.Context, c *client.Client, key string) (*pb.FlagSegment, error) {
	resp, err := c.Flags.ListSegments(ctx, connect.NewRequest(&pb.ListSegmentsRequest{}))
	if err != nil {
		return nil, err
	}
	for _, s := range resp.Msg.Segments {
		if s.Key == key {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", key, errNoSegment)
}

func (a *app) segmentList(ctx context.Context, c *client.Client, _ []string) error {
	resp, err := c.Flags.ListSegments(ctx, connect.NewRequest(&pb.ListSegmentsRequest{}))
	if err != nil {
		return err
	}
	return a.show(resp.Msg, func(w io.Writer) {
		var rows [][]string
		for _, s := range resp.Msg.Segments {
			rows = append(rows, []string{s.Key, fmt.Sprint(s.Version), fmt.Sprint(len(s.Included)), fmt.Sprint(len(s.Excluded)), fmt.Sprint(len(s.AnyOf)), dash(s.Description)})
		}
		table(w, []string{"SEGMENT", "VERSION", "INCLUDED", "EXCLUDED", "RULES", "ABOUT"}, rows)
	})
}

func (a *app) segmentSetCmd() *cobra.Command {
	var file, reason string
	cmd := &cobra.Command{
		Use: "set -f FILE", Short: "Create or replace a segment by its definition in JSON", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			var s feature.Segment
			if err := a.readDefinition(file, &s); err != nil {
				return err
			}
			now, err := getSegment(ctx, c, s.Key)
			if err != nil && !errors.Is(err, errNoSegment) {
				return err
			}
			if s.Version == 0 {
				s.Version = now.GetVersion()
			}
			fmt.Fprintf(a.Stderr, "%s: %s -> %s\n", clean(s.Key), segmentText(now), segmentText(wire.FlagSegment(s)))
			if ok, err := a.confirm("Write it? Every flag that uses it changes at once."); !ok {
				return err
			}
			resp, err := c.Flags.PutSegment(ctx, connect.NewRequest(&pb.PutSegmentRequest{Segment: wire.FlagSegment(s), Reason: reason}))
			if err != nil {
				return err
			}
			return a.show(resp.Msg.Segment, func(w io.Writer) {
				fmt.Fprintf(w, "%s is at version %d\n", clean(resp.Msg.Segment.GetKey()), resp.Msg.Segment.GetVersion())
			})
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the definition, as JSON (required; - is standard input)")
	_ = cmd.MarkFlagRequired("file")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return a.changing(cmd)
}

// segmentText is a segment in a few words.
func segmentText(s *pb.FlagSegment) string {
	if s == nil {
		return "nothing"
	}
	return fmt.Sprintf("%d included, %d excluded, %d rules", len(s.Included), len(s.Excluded), len(s.AnyOf))
}

func (a *app) segmentDeleteCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "delete KEY", Short: "Remove a segment that no flag uses any more", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			s, err := getSegment(ctx, c, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Stderr, "%s: %s\n", clean(s.Key), segmentText(s))
			if ok, err := a.confirm("Delete it?"); !ok {
				return err
			}
			_, err = c.Flags.DeleteSegment(ctx, connect.NewRequest(&pb.DeleteSegmentRequest{Key: s.Key, Version: s.Version, Reason: reason}))
			return err
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return a.changing(cmd)
}

// maxDefinition bounds a definition's file, in bytes.
const maxDefinition = 8 << 20

// readDefinition reads JSON strictly: an unknown field is an error, as it is most often a typing mistake.
func (a *app) readDefinition(path string, into any) error {
	in := a.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxDefinition+1))
	if err == nil && len(data) > maxDefinition {
		err = fmt.Errorf("larger than %d bytes", maxDefinition)
	}
	if err == nil {
		err = decodeStrict(data, into)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func decodeStrict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil && dec.More() {
		err = errors.New("more than one JSON value")
	}
	if err == nil {
		return nil
	}
	at := dec.InputOffset()
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		at = e.Offset
	}
	line := 1 + bytes.Count(data[:min(max(at, 0), int64(len(data)))], []byte("\n"))
	return fmt.Errorf("line %d: %w", line, err)
}
