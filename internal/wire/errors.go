package wire

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"

	"connectrpc.com/connect"

	"github.com/murmuration/murmuration/internal/record"
)

// Error is an error whose text is meant for the caller. Its kind decides the status.
type Error struct {
	// Code is the status it is answered with.
	Code connect.Code
	err  error
}

// Error is the text, without the code.
func (e *Error) Error() string { return e.err.Error() }

// Unwrap returns what the error was made of by %w, if anything.
func (e *Error) Unwrap() error { return errors.Unwrap(e.err) }

// Invalid makes an error for a request that cannot be right: a bad name, a missing reason. The format is that
// of [fmt.Errorf].
func Invalid(format string, args ...any) error {
	return newError(connect.CodeInvalidArgument, format, args)
}

// NotFound makes an error for a thing that does not exist.
func NotFound(format string, args ...any) error { return newError(connect.CodeNotFound, format, args) }

// Exists makes an error for a thing that is there already.
func Exists(format string, args ...any) error {
	return newError(connect.CodeAlreadyExists, format, args)
}

// Unauthenticated makes an error for a caller whose identity is missing, wrong or expired.
func Unauthenticated(format string, args ...any) error {
	return newError(connect.CodeUnauthenticated, format, args)
}

// Denied makes an error for a known caller who may not do this.
func Denied(format string, args ...any) error {
	return newError(connect.CodePermissionDenied, format, args)
}

// Precondition makes an error for what cannot be done in the present state: the message says what to do first.
func Precondition(format string, args ...any) error {
	return newError(connect.CodeFailedPrecondition, format, args)
}

// Limited makes an error for a caller who asks too often.
func Limited(format string, args ...any) error {
	return newError(connect.CodeResourceExhausted, format, args)
}

// Unavailable makes an error for what works again by itself: the caller should retry.
func Unavailable(format string, args ...any) error {
	return newError(connect.CodeUnavailable, format, args)
}

func newError(code connect.Code, format string, args []any) error {
	return &Error{Code: code, err: fmt.Errorf(format, args...)}
}

// Is reports whether err is, or wraps, an [Error] of the code.
func Is(err error, code connect.Code) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == code
}

// Code is the status that [ToConnect] answers err with.
func Code(err error) connect.Code {
	if c, ok := errors.AsType[*connect.Error](err); ok {
		return c.Code()
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	for _, row := range sentinels {
		if errors.Is(err, row.is) {
			return row.code
		}
	}
	return connect.CodeInternal
}

// sentinel is one row of the table. A row without text shows the error's own.
type sentinel struct {
	is   error
	code connect.Code
	text string
}

// sentinels is the table from the errors of the foundations to statuses, first match first.
var sentinels = []sentinel{
	{record.ErrNotFound, connect.CodeNotFound, ""},
	{record.ErrConflict, connect.CodeAborted, "someone else changed this at the same moment: look again and repeat"},
	{record.ErrUnavailable, connect.CodeUnavailable, "the store cannot be reached right now, so nothing was changed for certain: try again in a moment"},
	{context.Canceled, connect.CodeCanceled, "the caller went away"},
	{context.DeadlineExceeded, connect.CodeDeadlineExceeded, "this took longer than its time limit: try again"},
}

// ToConnect turns any error into the one a caller may see. Errors that are no [Error], no *connect.Error
// and in no row of the table are logged with the whole text and answered as internal with a reference.
func ToConnect(log *slog.Logger, err error) *connect.Error {
	if c, ok := errors.AsType[*connect.Error](err); ok {
		return c
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return connect.NewError(e.Code, errors.New(err.Error()))
	}
	for _, row := range sentinels {
		if !errors.Is(err, row.is) {
			continue
		}
		if row.text == "" {
			return connect.NewError(row.code, errors.New(err.Error()))
		}
		return connect.NewError(row.code, errors.New(row.text))
	}
	ref := rand.Text()[:8]
	log.Error("internal error", "ref", ref, "err", err)
	return connect.NewError(connect.CodeInternal, fmt.Errorf("internal error: the server's log says more under ref %s", ref))
}

// Errors is the interceptor that passes what every handler returns through [ToConnect]. Put it outermost.
func Errors(log *slog.Logger) connect.Interceptor { return errorInterceptor{log} }

type errorInterceptor struct{ log *slog.Logger }

// WrapUnary maps the error of a unary handler.
func (i errorInterceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		resp, err := next(ctx, req)
		if err != nil && !req.Spec().IsClient {
			return nil, ToConnect(i.log, err)
		}
		return resp, err
	}
}

// WrapStreamingClient changes nothing.
func (i errorInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler maps the error of a streaming handler.
func (i errorInterceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if err := next(ctx, conn); err != nil {
			return ToConnect(i.log, err)
		}
		return nil
	}
}
