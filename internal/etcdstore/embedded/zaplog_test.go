package embedded

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
)

func TestZapLogger(t *testing.T) {
	var out bytes.Buffer
	logger, gaveUp := zapLogger(t.Context(), slog.New(slog.NewTextHandler(&out, nil)))
	logger.Info("not shown")
	logger.With(zap.Int("member", 7)).Warn("slow disk", zap.String("took", "3s"))
	func() {
		defer func() {
			if err, ok := recover().(error); !ok || err != error(gaveUp.first.Load()) { //nolint:errorlint // the very error
				t.Errorf("recovered %v, want the fatal error", err)
			}
		}()
		logger.Fatal("no space", zap.Error(errors.New("disk full")))
	}()
	for _, want := range []string{`level=WARN msg="etcd: slow disk" member=7 took=3s`, `level=ERROR msg="etcd: no space"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log lacks %s:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "not shown") {
		t.Errorf("log has what is below a warning:\n%s", &out)
	}
	if err := gaveUp.first.Load(); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("fatal error %v, want the cause", err)
	}
}
