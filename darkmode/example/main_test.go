package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/murmuration/murmuration/darkmode/darkmodetest"
	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
)

// service runs the program itself until the returned function is called.
func service(t *testing.T, args ...string) (base string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, append(args, "-listen", "127.0.0.1:0"), func(string) string { return "" }, w) }()
	lines := bufio.NewReader(r)
	for base == "" {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(errors.Join(err, <-done))
		}
		if _, url, ok := strings.Cut(line, "listening on "); ok {
			base = strings.TrimSpace(url)
		}
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	return base, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.Close()
	}
}

func get(t *testing.T, method, url string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestOffline(t *testing.T) {
	base, stop := service(t)
	defer stop()
	want := "hello \"ann\"\n"
	if dial.Dial(2500).On("greeting.v2", "ann") {
		want = "Welcome back, \"ann\"!\n"
	}
	if code, body := get(t, "GET", base+"/hello?user=ann"); code != 200 || body != want {
		t.Errorf("%d %q, want %q", code, body, want)
	}
	if code, body := get(t, "POST", base+"/notes"); code != 200 {
		t.Errorf("%d %q", code, body)
	}
	if _, body := get(t, "GET", base+"/healthz"); !strings.Contains(body, `"flags_from":"bootstrap"`) {
		t.Error(body)
	}
}

// TestRestartWithoutTheServer: the mode that the server set holds over a restart during an outage.
func TestRestartWithoutTheServer(t *testing.T) {
	srv := darkmodetest.New(t, darkmodetest.Mode("example.mode", feature.ModeReadOnly))
	file := filepath.Join(t.TempDir(), "flags")
	base, stop := service(t, "-flagd", srv.URL, "-copy", file)
	for {
		if code, _ := get(t, "POST", base+"/notes"); code == 503 {
			break // the server's state has come
		}
	}
	stop()
	srv.SetBroken(true)
	base, stop = service(t, "-flagd", srv.URL, "-copy", file)
	defer stop()
	if code, body := get(t, "POST", base+"/notes"); code != 503 {
		t.Errorf("%d %q", code, body)
	}
	if code, body := get(t, "GET", base+"/healthz"); code != 200 || !strings.Contains(body, `"flags_from":"disk"`) {
		t.Errorf("%d %s", code, body)
	}
}
