package client

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// env is an environment of these variables only.
func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func saved(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "murmur", "config.json")
	c, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	c.Set("spare", Context{Servers: []string{"https://spare:7700"}, Token: "spare-token"})
	c.Set("main", Context{Servers: []string{"https://main:7700"}, CA: "main-ca", Token: "main-token", User: "dev"})
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	path := saved(t)
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, []byte("file-ca"), 0o644); err != nil {
		t.Fatal(err)
	}
	main := Context{Servers: []string{"https://main:7700"}, CA: "main-ca", Token: "main-token", User: "dev"}
	for _, tc := range []struct {
		name string
		vars map[string]string
		want Context
	}{
		{"the current one", nil, main},
		{"another by name", map[string]string{EnvContext: "spare"}, Context{Servers: []string{"https://spare:7700"}, Token: "spare-token"}},
		{"a token", map[string]string{EnvToken: "t"}, Context{Servers: main.Servers, CA: "main-ca", Token: "t"}},
		{"the same server keeps its token", map[string]string{EnvServer: "https://main:7700/"}, main},
		{"another server loses the token", map[string]string{EnvServer: "https://x:1"}, Context{Servers: []string{"https://x:1"}, CA: "main-ca"}},
		{"all", map[string]string{EnvServer: "https://x:1, https://y:2/", EnvToken: "t", EnvCA: caFile}, Context{Servers: []string{"https://x:1", "https://y:2"}, CA: "file-ca", Token: "t"}},
		{"CA as text", map[string]string{EnvCA: "-----BEGIN X"}, Context{Servers: main.Servers, CA: "-----BEGIN X", Token: "main-token", User: "dev"}},
	} {
		vars := map[string]string{EnvConfig: path}
		maps.Copy(vars, tc.vars)
		got, err := Load(env(vars))
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	path := saved(t)
	missing := filepath.Join(t.TempDir(), "none.json")
	if _, err := Load(env(map[string]string{EnvConfig: missing})); !errors.Is(err, ErrNoServer) {
		t.Errorf("no file: %v, want ErrNoServer", err)
	}
	if _, err := Load(env(map[string]string{EnvServer: "https://x:1"})); err != nil {
		t.Errorf("no home, a server in the environment: %v", err)
	}
	if _, err := Load(env(map[string]string{EnvConfig: path, EnvContext: "nope"})); err == nil || !strings.Contains(err.Error(), "main, spare") {
		t.Errorf("an unknown context: %v", err)
	}
	for _, server := range []string{"http://x:1", "x:1", "ftp://x", "https://", "https://u:p@x:1", "https://x/path", "https://x?q=1"} {
		_, err := Load(env(map[string]string{EnvConfig: path, EnvServer: server}))
		if err == nil || strings.Contains(err.Error(), "u:p") {
			t.Errorf("server %q: %v", server, err)
		}
	}
	if _, err := Load(env(map[string]string{EnvConfig: path, EnvServer: "http://127.0.0.1:1"})); err != nil {
		t.Errorf("plain http to this machine: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(env(map[string]string{EnvConfig: path})); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others may read: %v", err)
	}
}

func TestConfigFile(t *testing.T) {
	path := saved(t)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	c, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"main", "spare"}, c.Names(), cmpopts.EquateEmpty()); diff != "" || c.Current != "main" {
		t.Errorf("current %q, names %s", c.Current, diff)
	}
	for _, bad := range []string{"{\n\n\"current\": x}", "[]", `{"contexts": {}, "unknown": 1}`} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadConfig(path)
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, want an error with the path", bad, err)
		}
		if strings.Contains(bad, "\n\n") && !strings.Contains(err.Error(), "line 3") {
			t.Errorf("%q: %v, want the line", bad, err)
		}
	}
}

func TestPath(t *testing.T) {
	for _, tc := range []struct {
		vars map[string]string
		want string
	}{
		{map[string]string{EnvConfig: "/x/y", "HOME": "/h"}, "/x/y"},
		{map[string]string{"XDG_CONFIG_HOME": "/c", "HOME": "/h"}, "/c/murmur/config.json"},
		{map[string]string{"HOME": "/h"}, "/h/.config/murmur/config.json"},
	} {
		if got, err := Path(env(tc.vars)); err != nil || got != tc.want {
			t.Errorf("Path(%v) = %q, %v; want %q", tc.vars, got, err, tc.want)
		}
	}
	if _, err := Path(env(nil)); err == nil {
		t.Error("a path was found without HOME")
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"current":"a","contexts":{"a":{"servers":["https://x:1"]}}}`))
	f.Add([]byte("{\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &Config{}
		if err := decodeConfig(data, c); err == nil && c.Contexts == nil {
			t.Error("decoded without a map of contexts")
		}
	})
}
