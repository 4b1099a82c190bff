package demo

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

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

// tookLine is what a builder says about its command in a build's log.
var tookLine = regexp.MustCompile(`(?m)^murmur: the build command took ([0-9.]+)s$`)

// commandTime finds how long the build command ran; 0 when the log does not say.
func commandTime(log []byte) time.Duration {
	m := tookLine.FindSubmatch(log)
	if m == nil {
		return 0
	}
	s, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		return 0
	}
	return time.Duration(s * float64(time.Second))
}
