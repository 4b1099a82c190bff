package hooks

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func hookFile(tb testing.TB, path string) string {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func TestInstallTwiceAndUninstall(t *testing.T) {
	for _, tt := range []struct {
		hook string
		init []string
		at   string
	}{
		{"post-commit", []string{"init", "-q"}, ".git/hooks"},
		{"post-receive", []string{"init", "-q", "--bare"}, "hooks"},
	} {
		t.Run(tt.hook, func(t *testing.T) {
			g := newGit(t, t.TempDir())
			g.git(tt.init...)
			path := filepath.Join(g.dir, tt.at, tt.hook)
			var first string
			for range 2 {
				got, err := Install(t.Context(), Options{Repo: g.dir, Server: "https://murmur.example", RepoName: "git@example.com:shop"})
				if err != nil {
					t.Fatal(err)
				}
				if len(got) != 1 || got[0].Name != tt.hook || !got[0].Installed || !got[0].Current || got[0].Chained || got[0].Foreign {
					t.Errorf("status = %+v", got)
				}
				if content := hookFile(t, path); first != "" && content != first {
					t.Error("installing again changed the hook")
				} else {
					first = content
				}
			}
			if got := g.git("config", "murmur.repo"); got != "git@example.com:shop" {
				t.Errorf("murmur.repo = %q", got)
			}
			if err := Uninstall(t.Context(), g.dir); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("after uninstalling: %v", err)
			}
			if err := Uninstall(t.Context(), g.dir); err != nil {
				t.Errorf("uninstalling again: %v", err)
			}
		})
	}
}

func TestEarlierHookRunsFirst(t *testing.T) {
	dev, bare := newPair(t, Options{})
	theirs := "#!/bin/sh\necho theirs: \"$@\" $(cat)\nexit 3\n"
	if err := Uninstall(t.Context(), bare.dir); err != nil {
		t.Fatal(err)
	}
	bare.write("hooks/post-receive", theirs, 0o755)
	st, err := Status(t.Context(), Options{Repo: bare.dir})
	if err != nil || !st[0].Foreign || st[0].Installed {
		t.Errorf("status = %+v, %v", st, err)
	}
	for range 2 {
		if st, err = Install(t.Context(), Options{Repo: bare.dir}); err != nil || !st[0].Chained || !st[0].Current {
			t.Errorf("status = %+v, %v", st, err)
		}
	}
	id := dev.git("rev-parse", "HEAD")
	out := dev.git("push", "origin", "main")
	ours, their := strings.Index(out, "murmur: building "+id[:7]), strings.Index(out, "theirs: "+zeroID+" "+id+" refs/heads/main")
	if ours < 0 || their < 0 || ours < their {
		t.Errorf("want their hook with its input, then ours:\n%s", out)
	}
	if err := Uninstall(t.Context(), bare.dir); err != nil {
		t.Fatal(err)
	}
	if got := hookFile(t, filepath.Join(bare.dir, "hooks/post-receive")); got != theirs {
		t.Errorf("after uninstalling: %q", got)
	}
	if err := Uninstall(t.Context(), bare.dir); err != nil || hookFile(t, filepath.Join(bare.dir, "hooks/post-receive")) != theirs {
		t.Errorf("uninstalling twice touched their hook: %v", err)
	}
}

func TestInstallRefusesTwoEarlierHooks(t *testing.T) {
	_, bare := newPair(t, Options{})
	bare.write("hooks/post-receive", "#!/bin/sh\n", 0o755)
	bare.write("hooks/post-receive.local", "#!/bin/sh\n", 0o755)
	if _, err := Install(t.Context(), Options{Repo: bare.dir}); !errors.Is(err, ErrTwoHooks) {
		t.Errorf("error = %v", err)
	}
	if got := hookFile(t, filepath.Join(bare.dir, "hooks/post-receive")); got != "#!/bin/sh\n" {
		t.Errorf("their hook became %q", got)
	}
}

func TestHooksPath(t *testing.T) {
	g := newGit(t, t.TempDir())
	g.git("init", "-q")
	g.git("config", "core.hooksPath", "tools/hooks")
	st, err := Install(t.Context(), Options{Repo: g.dir})
	if err != nil {
		t.Fatal(err)
	}
	if content := hookFile(t, filepath.Join(g.dir, "tools/hooks/post-commit")); !ours([]byte(content)) || filepath.Base(filepath.Dir(st[0].Path)) != "hooks" {
		t.Errorf("status = %+v, content:\n%s", st, content)
	}

	shared := t.TempDir()
	t.Setenv("GIT_CONFIG_COUNT", "1")
	t.Setenv("GIT_CONFIG_KEY_0", "core.hooksPath")
	t.Setenv("GIT_CONFIG_VALUE_0", shared)
	g.git("config", "--unset", "core.hooksPath")
	if _, err := Install(t.Context(), Options{Repo: g.dir}); !errors.Is(err, ErrSharedHooks) {
		t.Errorf("error = %v", err)
	}
	if _, err := Install(t.Context(), Options{Repo: g.dir, Shared: true}); err != nil {
		t.Error(err)
	}
	hookFile(t, filepath.Join(shared, "post-commit"))
}

func TestInstallRefuses(t *testing.T) {
	g := newGit(t, t.TempDir())
	g.git("init", "-q")
	for name, o := range map[string]Options{
		"no repository":    {Repo: t.TempDir()},
		"relative program": {Repo: g.dir, Binary: "murmur"},
		"missing program":  {Repo: g.dir, Binary: "/nowhere/murmur"},
		"folder":           {Repo: g.dir, Binary: t.TempDir()},
		"bad pattern":      {Repo: g.dir, Refs: []string{"refs/heads/[x"}},
	} {
		if _, err := Install(t.Context(), o); err == nil {
			t.Errorf("%s: installed", name)
		}
	}
	if _, err := os.Stat(filepath.Join(g.dir, ".git/hooks/post-commit")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused install left a hook: %v", err)
	}
}

func TestQuoting(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's a $HOME `of` \"mine\"")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(dir, "murmur")
	if err := os.WriteFile(odd, []byte("#!/bin/sh\necho called with \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	g := newGit(t, t.TempDir())
	g.git("init", "-q", "-b", "main")
	if _, err := Install(t.Context(), Options{Repo: g.dir, Binary: odd}); err != nil {
		t.Fatal(err)
	}
	if _, out := g.commit("x"); out != "called with hooks run post-commit" {
		t.Errorf("output = %q", out)
	}
}
