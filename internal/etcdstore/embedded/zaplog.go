package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger makes a zap logger, which is what etcd writes to, that hands warnings and worse to log. What zap calls
// fatal is a panic with a [fatalError] instead of an exit: at the start it becomes an error of Start; later it
// ends the program loudly, because etcd is not made to go on.
// Once stopping ends nothing is logged: etcd reports every listener that we close as an error.
func zapLogger(stopping context.Context, log *slog.Logger) (*zap.Logger, *fatal) {
	hook := &fatal{}
	return zap.New(&core{log: log, stopping: stopping}, zap.WithFatalHook(hook)), hook
}

// fatal implements zapcore.CheckWriteHook. It remembers the first fatal entry, since etcd's own clean-up may
// panic again on the way out.
type fatal struct{ first atomic.Pointer[fatalError] }

// OnWrite implements zapcore.CheckWriteHook.
func (f *fatal) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := &fatalError{text: e.Message, fields: fmt.Sprint(args(fields)...)}
	f.first.CompareAndSwap(nil, err)
	panic(err)
}

// fatalError is what etcd could not go on with.
type fatalError struct{ text, fields string }

// Error implements error.
func (e *fatalError) Error() string { return fmt.Sprintf("etcd gave up: %s (%s)", e.text, e.fields) }

// noUsers is etcd's warning about how it would sign in users of its own, of which there are none here.
const noUsers = "simple token is not cryptographically signed"

// core implements zapcore.Core.
type core struct {
	log      *slog.Logger
	stopping context.Context
}

// Enabled implements zapcore.LevelEnabler.
func (c *core) Enabled(level zapcore.Level) bool {
	return level >= zapcore.WarnLevel && c.stopping.Err() == nil && c.log.Enabled(context.Background(), slogLevel(level))
}

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{log: c.log.With(args(fields)...), stopping: c.stopping}
}

// Check implements zapcore.Core.
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && e.Message != noUsers {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	c.log.Log(context.Background(), slogLevel(e.Level), "etcd: "+e.Message, args(fields)...)
	return nil
}

// Sync implements zapcore.Core.
func (c *core) Sync() error { return nil }

func slogLevel(level zapcore.Level) slog.Level {
	if level >= zapcore.ErrorLevel {
		return slog.LevelError
	}
	return slog.LevelWarn
}

// args renders fields as slog attributes, in order.
func args(fields []zapcore.Field) []any {
	out := make([]any, 0, len(fields))
	for _, f := range fields {
		one := zapcore.NewMapObjectEncoder()
		f.AddTo(one)
		for key, value := range one.Fields {
			out = append(out, slog.Any(key, value))
		}
	}
	return out
}
