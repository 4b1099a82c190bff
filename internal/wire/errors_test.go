package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/record"
)

func TestToConnect(t *testing.T) {
	inner := errors.New("inner")
	for _, tc := range []struct {
		name string
		err  error
		code connect.Code
		text string // what the caller sees; "" for the text of err
	}{
		{"invalid", Invalid("name %q", "x"), connect.CodeInvalidArgument, `name "x"`},
		{"wrapped", fmt.Errorf("put user: %w", Denied("no")), connect.CodePermissionDenied, "put user: no"},
		{"exists", Exists("there"), connect.CodeAlreadyExists, "there"},
		{"not found", NotFound("gone"), connect.CodeNotFound, "gone"},
		{"precondition", Precondition("first"), connect.CodeFailedPrecondition, "first"},
		{"limited", Limited("slow"), connect.CodeResourceExhausted, "slow"},
		{"unauthenticated", Unauthenticated("who"), connect.CodeUnauthenticated, "who"},
		{"unavailable", Unavailable("later"), connect.CodeUnavailable, "later"},
		{"store: not found", fmt.Errorf("host/x: %w", record.ErrNotFound), connect.CodeNotFound, "host/x: not found"},
		{"store: conflict", fmt.Errorf("host/x: %w", record.ErrConflict), connect.CodeAborted, "someone else changed this at the same moment: look again and repeat"},
		{"store: down", fmt.Errorf("dial 10.0.0.7: %w", record.ErrUnavailable), connect.CodeUnavailable, sentinels[2].text},
		{"cancelled", fmt.Errorf("x: %w", context.Canceled), connect.CodeCanceled, "the caller went away"},
		{"deadline", fmt.Errorf("x: %w", context.DeadlineExceeded), connect.CodeDeadlineExceeded, sentinels[4].text},
		{"already mapped", connect.NewError(connect.CodeDataLoss, inner), connect.CodeDataLoss, "inner"},
	} {
		got := ToConnect(slog.New(slog.DiscardHandler), tc.err)
		if got.Code() != tc.code || got.Message() != tc.text {
			t.Errorf("%s: %v %q, want %v %q", tc.name, got.Code(), got.Message(), tc.code, tc.text)
		}
		if c := Code(tc.err); c != tc.code {
			t.Errorf("%s: Code = %v, want %v", tc.name, c, tc.code)
		}
	}
}

func TestUnexpectedErrorsStayInside(t *testing.T) {
	var log bytes.Buffer
	got := ToConnect(slog.New(slog.NewTextHandler(&log, nil)), errors.New("password=hunter2"))
	if got.Code() != connect.CodeInternal || strings.Contains(got.Message(), "hunter2") {
		t.Errorf("the caller sees %v", got)
	}
	ref := got.Message()[strings.LastIndex(got.Message(), " ")+1:]
	if !strings.Contains(log.String(), "hunter2") || !strings.Contains(log.String(), ref) {
		t.Errorf("the log has no %q: %s", ref, log.String())
	}
}

func TestErrorsWrap(t *testing.T) {
	kind := Denied("not allowed")
	err := Denied("%w: host web-1", kind)
	if !errors.Is(err, kind) || !Is(err, connect.CodePermissionDenied) || Is(err, connect.CodeNotFound) || err.Error() != "not allowed: host web-1" {
		t.Errorf("%v is not what it wraps", err)
	}
	if Code(errors.New("x")) != connect.CodeInternal {
		t.Error("an unknown error is not internal")
	}
}
