package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	pb "github.com/murmuration/murmuration/proto/murmur/v1"
)

// patience bounds every wait of the story: far beyond what anything takes, so that only a fault meets it.
const patience = 2 * time.Minute

// until polls a condition that has no event to wait for.
func until(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		ok, err := done()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return fmt.Errorf("waited in vain until %s: %w", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// says waits until a host's service answers with a version.
func (s *story) says(ctx context.Context, h *host, version string) error {
	last := ""
	err := until(ctx, h.name+" serves "+version, func() (bool, error) {
		body, err := s.load.get(ctx, h.url, true)
		last = body
		return strings.Contains(body, "hello from "+version+","), err
	})
	if err != nil {
		return fmt.Errorf("%w (it said %q)", err, last)
	}
	return nil
}

func (s *story) allSay(ctx context.Context, version string) error {
	for _, h := range s.hosts.all {
		if err := s.says(ctx, h, version); err != nil {
			return err
		}
	}
	return nil
}

// hostIn returns the demo host of the first host of a rollout in a phase, or nil.
func (s *story) hostIn(r *pb.Rollout, phase string) *host {
	for _, rh := range r.Hosts {
		if rh.Phase != phase {
			continue
		}
		for _, h := range s.hosts.all {
			if h.name == rh.Name {
				return h
			}
		}
	}
	return nil
}

// buildTime is how long the build of a release ran.
func (s *story) buildTime(ctx context.Context, rel *pb.Release) (time.Duration, error) {
	resp, err := s.client.Releases.ListBuilds(ctx, connect.NewRequest(&pb.ListBuildsRequest{Service: service, Limit: 20}))
	if err != nil {
		return 0, err
	}
	for _, b := range resp.Msg.Builds {
		if b.ReleaseId == rel.Id {
			return b.FinishedAt.AsTime().Sub(b.StartedAt.AsTime()), nil
		}
	}
	return 0, fmt.Errorf("no build of release %s is on record", rel.Id)
}
