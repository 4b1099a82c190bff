package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/internal/identity"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

// sparkleFlag is the flag that the sample service reads; see sample/flags.go.txt.
const sparkleFlag = "hello.sparkle"

// startFlags makes the sample's flag, and the file that tells the sample where flags are, with a token that may
// only read.
func (d *demo) startFlags(ctx context.Context) (string, error) {
	token, err := d.client.Identity.CreateToken(ctx, connect.NewRequest(&pb.CreateTokenRequest{
		Name: "hello", Role: identity.Viewer.String(), Ttl: durationpb.New(30 * 24 * time.Hour),
	}))
	if err != nil {
		return "", err
	}
	_, err = d.client.Flags.PutFlag(ctx, connect.NewRequest(&pb.PutFlagRequest{Reason: "the demo's feature", Flag: &pb.Flag{
		Key: sparkleFlag, Description: "Whether answers sparkle", Owner: "dana", Type: "boolean", On: "on", Off: "off", Dial: int32(dial.Full),
		Variants: []*pb.FlagVariant{{Name: "on", ValueJson: "true"}, {Name: "off", ValueJson: "false"}},
	}}))
	if code := connect.CodeOf(err); err != nil && code != connect.CodeAborted && code != connect.CodeAlreadyExists {
		return "", fmt.Errorf("make the flag %s: %w", sparkleFlag, err) // an earlier demo in the same folder made it
	}
	path := filepath.Join(d.cfg.Dir, "darkmode.json")
	config, err := json.Marshal(struct{ URL, CA, Token string }{d.plane.FlagURL(), d.stored.CA, token.Msg.Token})
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path, config, 0o600)
}

// killFeature kills the feature under load and finds the last answer that still had it.
func (s *story) killFeature(ctx context.Context) (string, error) {
	before := s.load.mark()
	if err := s.sparkles(ctx, true); err != nil {
		return "", err
	}
	s.load.watch("*sparkle*")
	start := time.Now()
	resp, err := s.client.Flags.KillFlags(ctx, connect.NewRequest(&pb.KillFlagsRequest{Key: sparkleFlag, Reason: "the story"}))
	if err != nil {
		return "", err
	}
	answered := time.Since(start)
	if err := s.sparkles(ctx, false); err != nil {
		return "", err
	}
	last := s.load.lastSeen()
	detail := fmt.Sprintf("the kill was answered after %d ms, %d of %d clients had confirmed it", answered.Milliseconds(), resp.Msg.Confirmed, resp.Msg.Clients)
	if last.After(start) {
		detail += fmt.Sprintf("; the last of the answers that still sparkled came %d ms after the kill was asked for", last.Sub(start).Milliseconds())
	} else {
		detail += "; no answer after it sparkled"
	}
	if int(resp.Msg.Clients) < len(s.hosts.all) {
		return detail, fmt.Errorf("only %d clients were connected", resp.Msg.Clients)
	}
	if _, err := s.client.Flags.RestoreFlags(ctx, connect.NewRequest(&pb.RestoreFlagsRequest{Key: sparkleFlag, Reason: "the story"})); err != nil {
		return detail, err
	}
	if err := s.sparkles(ctx, true); err != nil {
		return detail, fmt.Errorf("after the restore: %w", err)
	}
	counted, err := s.noneFailed(before)
	return detail + "; restored; " + counted, err
}

// sparkles waits until every host's answer has the feature, or until none has.
func (s *story) sparkles(ctx context.Context, want bool) error {
	for _, h := range s.hosts.all {
		err := until(ctx, fmt.Sprintf("%s sparkles: %v", h.name, want), func() (bool, error) {
			body, err := s.load.get(ctx, h.url, false)
			return err == nil && strings.Contains(body, "*sparkle*") == want, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
