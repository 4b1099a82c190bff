package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLookAtOurselves(t *testing.T) {
	u, err := look(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if u.rss < 1<<20 || u.rssAnon <= 0 || u.rssAnon > u.rss || u.threads < 1 {
		t.Errorf("our own usage: %+v", u)
	}
}

func TestCPUTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stat")
	line := "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 9 0 100 1 2\n"
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := cpuTime(file); err != nil || got != 1750*time.Millisecond {
		t.Errorf("%v, %v; want 1.75s", got, err)
	}
	for _, bad := range []string{"", "42 (x) S 1 2", "42 (x) S 1 2 3 4 5 6 7 8 9 10 x y 1 2"} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := cpuTime(file); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
