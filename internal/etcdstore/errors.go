package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/murmuration/murmuration/internal/record"
)

// What etcd's consensus answers to a write while it hands leadership over, or stops. etcd passes these on as they
// are, without a code of their own.
const (
	raftDropped = "raft proposal dropped"
	raftStopped = "raft: stopped"
)

var errClosed = fmt.Errorf("%w: it is closed", record.ErrUnavailable)

// wrap says what failed and turns every error that means "not now" into record.ErrUnavailable with the reason.
// Ctx is the caller's, without the time limit of the request.
func (s *Store) wrap(ctx context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, ctx.Err())
	case s.ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, errClosed)
	}
	if why := s.whyUnavailable(err); why != "" {
		return fmt.Errorf("%s: %w: %s: %w", what, record.ErrUnavailable, why, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// whyUnavailable explains an error that a later try may not meet; "" for any other.
func (s *Store) whyUnavailable(err error) string {
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return "etcd's space quota is used up; compact and defragment it, then disarm its alarm"
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrLeaderChanged):
		return "etcd has no leader just now; more than half of its members must be up"
	case errors.Is(err, rpctypes.ErrCorrupt):
		return "etcd raised its corruption alarm; restore a member from a backup"
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer from %s in time", strings.Join(s.cfg.Endpoints, ", "))
	}
	switch code(err) {
	case codes.Unknown:
		if why := status.Convert(err).Message(); why == raftDropped || why == raftStopped {
			return "etcd is changing its leader"
		}
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return "no answer from " + strings.Join(s.cfg.Endpoints, ", ")
	case codes.ResourceExhausted:
		return "etcd is overloaded"
	}
	return ""
}

func code(err error) codes.Code {
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return e.Code()
	}
	return status.Code(err)
}
