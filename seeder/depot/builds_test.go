package depot

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"github.com/murmuration/murmuration/internal/wire"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

func newBuild(state murmurv1.BuildState) *murmurv1.Build {
	return &murmurv1.Build{
		Id: uuid.Must(uuid.NewV7()).String(), Repo: "git@example.org:web", Commit: strings.Repeat("a", 40), State: state,
	}
}

func (f *fixture) report(t *testing.T, b *murmurv1.Build) *murmurv1.Build {
	t.Helper()
	resp, err := f.ReportBuild(t.Context(), connect.NewRequest(&murmurv1.ReportBuildRequest{Build: b}))
	if err != nil {
		t.Fatal(err)
	}
	return resp.Msg.Build
}

func (f *fixture) appendLine(t *testing.T, build string, offset int64, data string) *murmurv1.AppendBuildLogResponse {
	t.Helper()
	resp, err := f.AppendBuildLog(t.Context(), connect.NewRequest(&murmurv1.AppendBuildLogRequest{BuildId: build, Offset: offset, Data: []byte(data)}))
	if err != nil {
		t.Fatal(err)
	}
	return resp.Msg
}

func TestBuildLife(t *testing.T) {
	f := newFixture(t, nil)
	b := newBuild(murmurv1.BuildState_BUILD_STATE_QUEUED)
	f.report(t, b)
	b.State, b.Service = murmurv1.BuildState_BUILD_STATE_RUNNING, "web"
	f.report(t, b)
	f.report(t, b) // a repeated report is not audited again
	b.State, b.ReleaseId = murmurv1.BuildState_BUILD_STATE_PUBLISHED, uuid.Must(uuid.NewV7()).String()
	f.report(t, b)
	b.State = murmurv1.BuildState_BUILD_STATE_RUNNING
	if got := f.report(t, b); got.State != murmurv1.BuildState_BUILD_STATE_PUBLISHED {
		t.Errorf("a late report reopened the build: %v", got.State)
	}
	if len(f.audit.lines) != 3 {
		t.Errorf("audit %q, want one line for each state", f.audit.lines)
	}
	_, err := f.CancelBuild(t.Context(), connect.NewRequest(&murmurv1.CancelBuildRequest{Id: b.Id}))
	if !wire.Is(err, connect.CodeFailedPrecondition) {
		t.Errorf("cancel of an ended build: %v", err)
	}
	other := newBuild(murmurv1.BuildState_BUILD_STATE_FAILED)
	other.Service = "api"
	f.report(t, other)
	list, err := f.ListBuilds(t.Context(), connect.NewRequest(&murmurv1.ListBuildsRequest{}))
	if err != nil || len(list.Msg.Builds) != 2 || list.Msg.Builds[0].Id != other.Id {
		t.Errorf("list: %v, %v", list, err)
	}
	list, err = f.ListBuilds(t.Context(), connect.NewRequest(&murmurv1.ListBuildsRequest{Service: "web"}))
	if err != nil || len(list.Msg.Builds) != 1 || list.Msg.Builds[0].Id != b.Id {
		t.Errorf("list of web: %v, %v", list, err)
	}
}

func TestReportBuildRefuses(t *testing.T) {
	f := newFixture(t, nil)
	first := newBuild(murmurv1.BuildState_BUILD_STATE_RUNNING)
	f.report(t, first)
	for name, change := range map[string]func(*murmurv1.Build){
		"id":             func(b *murmurv1.Build) { b.Id = "../x" },
		"service":        func(b *murmurv1.Build) { b.Service = "Web!" },
		"commit":         func(b *murmurv1.Build) { b.Commit = "HEAD" },
		"state":          func(b *murmurv1.Build) { b.State = 99 },
		"release":        func(b *murmurv1.Build) { b.ReleaseId = "x" },
		"another commit": func(b *murmurv1.Build) { b.Commit = strings.Repeat("b", 40) },
	} {
		b := &murmurv1.Build{Id: first.Id, Repo: first.Repo, Commit: first.Commit, State: first.State}
		change(b)
		_, err := f.ReportBuild(t.Context(), connect.NewRequest(&murmurv1.ReportBuildRequest{Build: b}))
		if !wire.Is(err, connect.CodeInvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.ReportBuild(t.Context(), connect.NewRequest(&murmurv1.ReportBuildRequest{})); !wire.Is(err, connect.CodeInvalidArgument) {
		t.Errorf("no build: %v", err)
	}
}

func TestCancelReachesTheBuilder(t *testing.T) {
	f := newFixture(t, nil)
	b := newBuild(murmurv1.BuildState_BUILD_STATE_RUNNING)
	f.report(t, b)
	if f.appendLine(t, b.Id, 0, "one\n").Cancelled {
		t.Error("cancelled before the cancel")
	}
	_, err := f.CancelBuild(t.Context(), connect.NewRequest(&murmurv1.CancelBuildRequest{Id: b.Id, Reason: "wrong branch"}))
	if err != nil {
		t.Fatal(err)
	}
	if !f.appendLine(t, b.Id, 4, "two\n").Cancelled {
		t.Error("the log's answer does not say cancelled")
	}
	if got := f.report(t, b); got.State != murmurv1.BuildState_BUILD_STATE_CANCELLED || got.Error != "cancelled: wrong branch" {
		t.Errorf("the report's answer is %v", got)
	}
}

func TestLogOffsets(t *testing.T) {
	f := newFixture(t, nil)
	b := newBuild(murmurv1.BuildState_BUILD_STATE_RUNNING)
	f.report(t, b)
	for _, step := range []struct {
		offset int64
		data   string
		size   int64
	}{
		{0, "hello ", 6}, {0, "hello ", 6}, {3, "lo world", 11}, {50, "gap", 11}, {11, "!", 12},
	} {
		if got := f.appendLine(t, b.Id, step.offset, step.data).Size; got != step.size {
			t.Errorf("%q at %d: size %d, want %d", step.data, step.offset, got, step.size)
		}
	}
	if got, err := f.readLog(b.Id, 0); err != nil || string(got) != "hello world!" {
		t.Errorf("log %q, %v", got, err)
	}
}

func TestLogIsBounded(t *testing.T) {
	f := newFixture(t, nil)
	b := newBuild(murmurv1.BuildState_BUILD_STATE_RUNNING)
	f.report(t, b)
	f.appendLine(t, b.Id, 0, "start\n")
	if err := f.root.WriteFile(logName(b.Id), make([]byte, maxLog-100), 0o600); err != nil {
		t.Fatal(err)
	}
	part := strings.Repeat("y", 1000)
	at := f.appendLine(t, b.Id, maxLog-100, part).Size
	if at != maxLog-100+1000 {
		t.Errorf("the builder is told %d", at)
	}
	if got := f.appendLine(t, b.Id, at, part).Size; got != at+1000 {
		t.Errorf("after the cut the builder is told %d, want %d", got, at+1000)
	}
	tail, err := f.readLog(b.Id, maxLog-100)
	if err != nil || len(tail) != 100 || !bytes.HasSuffix(tail, []byte(logCut)) {
		t.Errorf("the log ends in %q, %v", tail, err)
	}
}

func TestWatchBuildStreamsToTheEnd(t *testing.T) {
	f := newFixture(t, nil)
	b := newBuild(murmurv1.BuildState_BUILD_STATE_RUNNING)
	f.report(t, b)
	f.appendLine(t, b.Id, 0, "skipped one\n")
	var log strings.Builder
	var states []murmurv1.BuildState
	got := make(chan struct{}, 100)
	done := make(chan error, 1)
	go func() {
		done <- f.watchBuild(t.Context(), b.Id, 8, func(r *murmurv1.WatchBuildResponse) error {
			log.Write(r.Log)
			states = append(states, r.Build.State)
			got <- struct{}{}
			return nil
		})
	}()
	<-got
	f.appendLine(t, b.Id, 12, "two\n")
	<-got
	b.State = murmurv1.BuildState_BUILD_STATE_FAILED
	f.report(t, b)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if log.String() != "one\ntwo\n" || states[len(states)-1] != murmurv1.BuildState_BUILD_STATE_FAILED {
		t.Errorf("watched %q, states %v", log.String(), states)
	}
	if len(f.logs) != 0 {
		t.Errorf("%d logs are still held", len(f.logs))
	}
	stop := errors.New("the watcher left")
	if err := f.watchBuild(t.Context(), b.Id, 0, func(*murmurv1.WatchBuildResponse) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a watcher that left: %v", err)
	}
	if err := f.watchBuild(t.Context(), uuid.Must(uuid.NewV7()).String(), 0, nil); !wire.Is(err, connect.CodeNotFound) {
		t.Errorf("an unknown build: %v", err)
	}
}
