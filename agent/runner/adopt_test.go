package runner

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dyingAgent starts the service as an agent would, says where it listens, and waits to be killed.
func dyingAgent() int {
	dir := os.Getenv("RUNNER_TEST_DIR")
	root, err := os.OpenRoot(dir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	p := NewProcess(root, slog.New(slog.DiscardHandler), Tuning{Settle: 20 * time.Millisecond}, func() {})
	s := spec(&testing.T{}, dir, os.Getenv("RUNNER_TEST_RELEASE"))
	if os.Getenv("RUNNER_TEST_DIE") == "before-second-record" {
		// The fork is done and only its intention is on record.
		if err := os.Chmod(dir, 0o700); err != nil {
			return 1
		}
		p.mark = func() string { return "mark-of-the-orphan" }
		argv, err := s.argv()
		if err != nil {
			return 1
		}
		socks, err := p.takeSockets(context.Background(), s)
		if err != nil {
			return 1
		}
		if _, err := p.launch(s, argv, socks, nil); err != nil {
			fmt.Println(err)
			return 1
		}
		if err := p.saveErr(socks, &proc{release: s.Release, mark: "mark-of-the-orphan"}); err != nil {
			return 1
		}
		fmt.Println(socks[0].Addr)
	} else if err := p.Start(context.Background(), s); err != nil {
		fmt.Println(err)
		return 1
	} else {
		fmt.Println(p.Status().Addrs["main"])
	}
	select {}
}

// killedAgent runs an agent that starts rel and is then killed by SIGKILL. It returns where the service listens.
func killedAgent(t *testing.T, dir, rel, die string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "RUNNER_TEST_ROLE=agent", "RUNNER_TEST_DIR="+dir, "RUNNER_TEST_RELEASE="+rel, "RUNNER_TEST_DIE="+die)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 200)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as asked
	addr := strings.TrimSpace(string(buf[:n]))
	if _, _, err := net.SplitHostPort(addr); err != nil {
		t.Fatalf("the agent said %q", addr)
	}
	return addr
}

func TestKilledAgentsServiceIsAdopted(t *testing.T) {
	for _, die := range []string{"after-start", "before-second-record"} {
		t.Run(die, func(t *testing.T) {
			dir := t.TempDir()
			addr := killedAgent(t, dir, "r1", die)
			_, before := ask(t, addr)

			p := newRunner(t, dir, Tuning{Settle: 50 * time.Millisecond})
			ok, err := p.Adopt(t.Context(), spec(t, dir, "r1"))
			if err != nil || !ok {
				t.Fatalf("Adopt = %v, %v", ok, err)
			}
			if s := p.Status(); s.PID != before || s.Addrs["main"] != addr || !s.Running {
				t.Errorf("status %+v, want process %d at %s", s, before, addr)
			}
			// The sockets are ours again: a restart keeps the address.
			if err := p.Start(t.Context(), spec(t, dir, "r2")); err != nil {
				t.Fatal(err)
			}
			if rel, pid := ask(t, addr); rel != "r2" || pid == before {
				t.Errorf("%s (%d) answers, want r2 from a new process", rel, pid)
			}
		})
	}
}

func TestAdoptedProcessIsRestartedWhenItCrashes(t *testing.T) {
	dir := t.TempDir()
	addr := killedAgent(t, dir, "r1", "")
	changed := make(chan struct{}, 10)
	p := newRunner(t, dir, Tuning{Settle: 20 * time.Millisecond, Backoff: time.Millisecond})
	p.changed = func() { changed <- struct{}{} }
	if ok, err := p.Adopt(t.Context(), spec(t, dir, "r1")); !ok || err != nil {
		t.Fatalf("Adopt = %v, %v", ok, err)
	}
	if _, err := get(addr, "/crash"); err == nil {
		t.Fatal("the service did not crash")
	}
	<-changed
	<-changed
	if rel, _ := ask(t, addr); rel != "r1" || p.Status().Restarts != 1 {
		t.Errorf("%s answers, status %+v", rel, p.Status())
	}
}

func TestWrongReleaseIsStoppedAndItsSocketKept(t *testing.T) {
	dir := t.TempDir()
	addr := killedAgent(t, dir, "new", "")
	_, before := ask(t, addr)
	p := newRunner(t, dir, Tuning{Settle: 20 * time.Millisecond})
	ok, err := p.Adopt(t.Context(), spec(t, dir, "old"))
	if ok || err != nil {
		t.Fatalf("Adopt = %v, %v", ok, err)
	}
	if _, live := startTicks(before); live {
		t.Error("the wrong release still runs")
	}
	answer := make(chan error, 1)
	go func() { // waits in the socket's queue: nobody accepts, nobody refuses
		_, err := get(addr, "/")
		answer <- err
	}()
	if err := p.Start(t.Context(), spec(t, dir, "old")); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Errorf("a request between the releases: %v", err)
	}
	if rel, _ := ask(t, addr); rel != "old" {
		t.Errorf("%s answers, want old", rel)
	}
}

func TestNothingToAdopt(t *testing.T) {
	dir := t.TempDir()
	p := newRunner(t, dir, Tuning{})
	for _, content := range []string{"", "{", `{"boot":"another","instances":[{"mark":"m","release":"r1","pid":1,"start":1}]}`,
		fmt.Sprintf(`{"boot":%q,"instances":[{"mark":"m","release":"r1","pid":%d,"start":1}]}`, bootID(), os.Getpid())} {
		if content != "" {
			if err := os.WriteFile(filepath.Join(dir, runFile), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if ok, err := p.Adopt(t.Context(), spec(t, dir, "r1")); ok || err != nil {
			t.Errorf("with %q: Adopt = %v, %v", content, ok, err)
		}
	}
}
