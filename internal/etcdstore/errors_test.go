package etcdstore

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/murmuration/murmuration/internal/record"
)

// TestUnknownAnswers checks which of the answers without a code mean "not now".
func TestUnknownAnswers(t *testing.T) {
	s := &Store{ctx: t.Context()}
	for message, want := range map[string]bool{
		"raft proposal dropped": true,
		"raft: stopped":         true,
		"another":               false,
	} {
		err := s.wrap(t.Context(), "commit", status.Error(codes.Unknown, message))
		if got := errors.Is(err, record.ErrUnavailable); got != want {
			t.Errorf("%q: ErrUnavailable is %v, want %v (%v)", message, got, want, err)
		}
	}
}
