package script

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestRunReportsExitAndOutput(t *testing.T) {
	dir := t.TempDir()
	r := Run(t.Context(), Cmd{Phase: "pre", Name: "look", Run: "pwd; echo $COLOUR >&2; exit 3", Dir: dir, Env: []string{"COLOUR=blue"}})
	if r.OK() || r.ExitCode != 3 || r.Phase != "pre" || r.Name != "look" {
		t.Errorf("got %+v, want exit 3 of pre/look", r)
	}
	if want := dir + "\nblue\n"; string(r.Output) != want {
		t.Errorf("output %q, want %q", r.Output, want)
	}
	if ok := Run(t.Context(), Cmd{Run: "true", Dir: dir}); !ok.OK() || ok.ExitCode != 0 {
		t.Errorf("true: %+v", ok)
	}
}

func TestHangingScriptIsKilledWithItsChildren(t *testing.T) {
	dir := t.TempDir()
	r := Run(t.Context(), Cmd{Run: "sleep 600 & echo $! > child; wait", Dir: dir, Timeout: 300 * time.Millisecond, Env: []string{"PATH=/usr/bin:/bin"}})
	if r.OK() || !strings.Contains(r.Err, "timed out after 300ms") {
		t.Fatalf("got %+v, want a time-out", r)
	}
	wantGone(t, filepath.Join(dir, "child"))
}

func TestChildLeftBehindIsKilled(t *testing.T) {
	dir := t.TempDir()
	r := Run(t.Context(), Cmd{Run: "sleep 600 >/dev/null 2>&1 & echo $! > child", Dir: dir, Env: []string{"PATH=/usr/bin:/bin"}})
	if !r.OK() {
		t.Fatalf("script failed: %+v", r)
	}
	wantGone(t, filepath.Join(dir, "child"))
}

// wantGone waits until the process whose id is in file has been killed; its parent may not have reaped it.
func wantGone(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return
		}
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("process %d still runs", pid)
		}
	}
}

func TestInterruptionSaysWhy(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("emergency stop"))
	if r := Run(ctx, Cmd{Run: "sleep 600"}); !strings.Contains(r.Err, "emergency stop") {
		t.Errorf("got %+v, want the cause", r)
	}
}

func TestFloodIsBounded(t *testing.T) {
	r := Run(t.Context(), Cmd{Run: "echo first; head -c 3000000 /dev/zero; echo last", Env: []string{"PATH=/usr/bin:/bin"}, Timeout: 30 * time.Second})
	if !r.OK() {
		t.Fatalf("failed: %s", r.Err)
	}
	if len(r.Output) != 2*Keep || !bytes.HasPrefix(r.Output, []byte("first\n")) || !bytes.HasSuffix(r.Output, []byte("last\n")) {
		t.Errorf("kept %d bytes, head %q, tail %q", len(r.Output), r.Output[:8], r.Output[len(r.Output)-8:])
	}
	if want := int64(3000000+11) - 2*Keep; r.Omitted != want {
		t.Errorf("omitted %d bytes, want %d", r.Omitted, want)
	}
}

func TestMissingFolderIsAnError(t *testing.T) {
	if r := Run(t.Context(), Cmd{Run: "true", Dir: "/nonexistent/folder"}); r.OK() || r.ExitCode != -1 {
		t.Errorf("got %+v, want an error", r)
	}
}

func TestTailKeepsHeadAndTail(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w tail
		var all []byte
		for i, n := range rapid.SliceOfN(rapid.IntRange(0, Keep+Keep/2), 0, 6).Draw(t, "writes") {
			p := bytes.Repeat([]byte{byte('a' + i)}, n)
			for j := range p {
				p[j] += byte(j % 7)
			}
			all = append(all, p...)
			if k, err := w.Write(p); k != n || err != nil {
				t.Fatalf("Write = %d, %v", k, err)
			}
		}
		want, omitted := all, int64(0)
		if len(all) > 2*Keep {
			want = append(append([]byte{}, all[:Keep]...), all[len(all)-Keep:]...)
			omitted = int64(len(all) - 2*Keep)
		}
		got, gotOmitted := w.bytes()
		if !bytes.Equal(got, want) || gotOmitted != omitted {
			t.Fatalf("kept %d omitted %d, want %d and %d", len(got), gotOmitted, len(want), omitted)
		}
	})
}
