package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/murmuration/murmuration/agent"
)

func try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, errs bytes.Buffer
	err := run(t.Context(), args, func(string) string { return "" }, &out, &errs)
	return out.String() + errs.String(), err
}

func TestVersionAndCompletion(t *testing.T) {
	if out, err := try(t, "version"); err != nil || strings.TrimSpace(out) == "" {
		t.Errorf("version: %q, %v", out, err)
	}
	if out, err := try(t, "completion", "bash"); err != nil || !strings.Contains(out, "murmur-agent") {
		t.Errorf("completion: %d bytes, %v", len(out), err)
	}
}

func TestStatusWithoutAnAgent(t *testing.T) {
	root := t.TempDir()
	if _, err := try(t, "status", "--root", root); err == nil || !strings.Contains(err.Error(), "not an agent's folder") {
		t.Errorf("an empty folder: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(root, ".murmur"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := try(t, "status", "--root", root, "--json")
	var s agent.Status
	if err != nil || json.Unmarshal([]byte(out), &s) != nil || s.Running || s.DiskFree <= 0 {
		t.Errorf("status: %q, %v", out, err)
	}
	if out, err := try(t, "status", "--root", root); err != nil || !strings.Contains(out, "no agent runs") {
		t.Errorf("status: %q, %v", out, err)
	}
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	root := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"run", "--root", root}, "murmur-agent join"},
		{[]string{"run", "--root", root, "--label", "rack"}, "key=value"},
		{[]string{"join", "--root", root, "--seeder", "https://x"}, "join token is needed"},
		{[]string{"join", "--root", root, "--token", "t"}, "--seeder"},
		{[]string{"rollback", "--root", root}, "accepts 1 arg"},
	} {
		if _, err := try(t, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
}

func TestConfig(t *testing.T) {
	c, err := parseConfig([]byte("name: seven\nlabels: {rack: a}\nswarm:\n  listen: \":7480\"\n  up_mbit: 50\nlisten:\n  shop/main: 127.0.0.1:80\n"))
	if err != nil || c.Name != "seven" || c.Labels["rack"] != "a" || c.Swarm.UpMbit != 50 || c.Listen["shop/main"] != "127.0.0.1:80" {
		t.Errorf("config %+v, %v", c, err)
	}
	if err := c.merge(flags{name: "eight", labels: []string{"dc=x"}, seeders: []string{"https://a"}}); err != nil || c.Name != "eight" || c.Labels["rack"] != "a" || c.Labels["dc"] != "x" {
		t.Errorf("merged %+v, %v", c, err)
	}
	for text, want := range map[string]string{
		"nmae: x":            "nmae",
		"a: [":               "configuration",
		"http: 0.0.0.0:7479": "loopback",
		"min_free_mib: -1":   "negative",
	} {
		if _, err := parseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := parseConfig(nil); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("name: x\nswarm: {listen: \":0\"}\n"))
	f.Add([]byte("&a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig(b)
		if err == nil && (c.MinFreeMiB < 0 || c.Swarm.UpMbit < 0) {
			t.Errorf("accepted %+v", c)
		}
	})
}
