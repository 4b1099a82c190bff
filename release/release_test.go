package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/murmuration/murmuration/dial"
	"pgregory.net/rapid"
)

const testID = "0197a1b2-c3d4-7abc-8def-0123456789ab"

func goodManifest() Manifest {
	d := DigestOf([]byte("x"))
	return Manifest{
		Version: ManifestVersion, Service: "web", ID: testID, Commit: strings.Repeat("a", 40), Ref: "refs/heads/main",
		Repo: "git@example.org:web.git", Author: "Ada <ada@example.org>", Subject: "say <hello> & more",
		Reviewers: []string{"grace"}, CreatedAt: time.Date(2026, 5, 4, 3, 2, 1, 0, time.FixedZone("x", 3600)),
		Artifact: Artifact{
			Digest: d, Size: 200, RawSize: 4096, RawDigest: d, Files: 3, Chunks: 1,
			IndexOffset: 100, IndexSize: 100, IndexDigest: d,
		},
		Recipe:  Recipe{Service: "web", Run: Run{Command: "bin/web", Env: map[string]string{"B": "2", "A": "1"}}}.WithDefaults(),
		Changes: []Change{{Commit: strings.Repeat("a", 40), Author: "Ada", Subject: "say hello", Added: 3}},
	}
}

func encode(t testing.TB, m Manifest) []byte {
	t.Helper()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestManifestRoundTrip(t *testing.T) {
	want := goodManifest()
	b := encode(t, want)
	got, err := ParseManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	want.CreatedAt = want.CreatedAt.UTC()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-encoded +parsed):\n%s", diff)
	}
	if again := encode(t, got); !bytes.Equal(again, b) {
		t.Errorf("encoded again it differs:\n%s\n%s", b, again)
	}
}

func TestParseManifestIsStrict(t *testing.T) {
	b := string(encode(t, goodManifest()))
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"unknown field":  {strings.Replace(b, `"service"`, `"evil":1,"service"`, 1), ErrManifest},
		"repeated field": {strings.Replace(b, `"service":"web"`, `"service":"evil","service":"web"`, 1), ErrManifest},
		"other case":     {strings.Replace(b, `"service"`, `"Service"`, 1), ErrManifest},
		"space":          {b + " ", ErrManifest},
		"trailing data":  {b + "{}", ErrManifest},
		"other order":    {strings.Replace(b, `"A":"1","B":"2"`, `"B":"2","A":"1"`, 1), ErrManifest},
		"other zone":     {strings.Replace(b, `01Z"`, `01+00:00"`, 1), ErrManifest},
		"newer version":  {strings.Replace(b, `"version":1`, `"version":2,"new":true`, 1), ErrNewerManifest},
		"empty":          {"", ErrManifest},
		"null":           {"null", nil},
		"huge":           {strings.Repeat(" ", MaxManifest+1), ErrManifest},
	} {
		_, err := ParseManifest([]byte(c.text))
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestManifestValidateNamesFields(t *testing.T) {
	m := goodManifest()
	m.Service, m.ID, m.Commit, m.Subject = "Web", "x", "HEAD", "two\nlines"
	m.Artifact.IndexSize, m.Artifact.Chunks, m.Artifact.Digest = 50, 0, "md5:x"
	want := []string{
		"service", "id", "commit", "subject", "artifact.digest", "artifact.chunks", "artifact.index_size", "recipe.service",
	}
	var got []string
	for _, f := range FieldErrors(m.Validate()) {
		got = append(got, f.Path)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := m.Encode(); err == nil {
		t.Error("a manifest that is not valid was encoded")
	}
}

func TestRecipeErrors(t *testing.T) {
	good := Recipe{Service: "web", Run: Run{Command: "bin/web"}, Ports: []Port{{Name: "http", Listen: ":8080"}}}
	for name, c := range map[string]struct {
		change func(*Recipe)
		want   []string
	}{
		"good":           {func(*Recipe) {}, nil},
		"output":         {func(r *Recipe) { r.Build.Output = "../x" }, []string{"build.output"}},
		"env":            {func(r *Recipe) { r.Run.Env = map[string]string{"A=B": ""} }, []string{"run.env.A=B"}},
		"kind":           {func(r *Recipe) { r.Run.Kind = "docker" }, []string{"run.kind"}},
		"unit":           {func(r *Recipe) { r.Run = Run{Kind: RunSystemd} }, []string{"run.unit"}},
		"port":           {func(r *Recipe) { r.Ports[0].Listen = "nope" }, []string{"ports[0].listen"}},
		"port range":     {func(r *Recipe) { r.Ports[0].Listen = ":65536" }, []string{"ports[0].listen"}},
		"bare v6":        {func(r *Recipe) { r.Ports[0].Listen = "::1:80" }, []string{"ports[0].listen"}},
		"v6":             {func(r *Recipe) { r.Ports[0].Listen = "[::1]:80" }, nil},
		"port twice":     {func(r *Recipe) { r.Ports = append(r.Ports, r.Ports[0]) }, []string{"ports[1].name"}},
		"two checks":     {func(r *Recipe) { r.Health = []Health{{HTTP: "/", TCP: "http"}} }, []string{"health[0]"}},
		"no check":       {func(r *Recipe) { r.Health = []Health{{}} }, []string{"health[0]"}},
		"unknown port":   {func(r *Recipe) { r.Health = []Health{{HTTP: "/", Port: "x"}} }, []string{"health[0].port"}},
		"script":         {func(r *Recipe) { r.Checks.Pre = []Script{{Run: "true"}, {Run: " "}} }, []string{"checks.pre[1].run"}},
		"step of two":    {func(r *Recipe) { r.Strategy.Steps = []Step{{Hosts: 1, Dial: 5}} }, []string{"strategy.steps[0]"}},
		"dial":           {func(r *Recipe) { r.Strategy.Steps = []Step{{Hosts: 1}, {Dial: 10001}} }, []string{"strategy.steps[1].dial"}},
		"narrower":       {func(r *Recipe) { r.Strategy.Steps = []Step{{Dial: 500}, {Dial: 100}} }, []string{"strategy.steps[1].dial"}},
		"budget":         {func(r *Recipe) { r.Strategy.MaxUnavailable = "101%" }, []string{"strategy.max_unavailable"}},
		"budget of none": {func(r *Recipe) { r.Strategy.MaxUnavailablePerRack = "0" }, []string{"strategy.max_unavailable_per_rack"}},
		"never healthy": {func(r *Recipe) {
			r.Strategy.MinHealthy, r.Strategy.HealthyDeadline = Duration(time.Minute), Duration(time.Second)
		}, []string{"strategy.min_healthy"}},
	} {
		r := good
		r.Ports = slices.Clone(good.Ports)
		c.change(&r)
		for _, full := range []Recipe{r, r.WithDefaults()} {
			var got []string
			for _, f := range FieldErrors(full.Validate()) {
				got = append(got, f.Path)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: wrong fields %q, want %q", name, got, c.want)
			}
		}
	}
}

func TestDefaults(t *testing.T) {
	r := Recipe{Service: "web", Run: Run{Command: "x"}, Ports: []Port{{Name: "http", Listen: ":0"}}, Health: []Health{{HTTP: "/ok"}}}
	full := r.WithDefaults()
	if full.Run.Kind != RunProcess || full.Health[0].Port != "http" || full.Health[0].Successes != 3 || r.Health[0].Successes != 0 {
		t.Errorf("got %+v; the original's check is %+v", full, r.Health[0])
	}
	if diff := cmp.Diff(full, full.WithDefaults()); diff != "" {
		t.Errorf("defaults are not stable:\n%s", diff)
	}
	s := Strategy{Steps: []Step{{Hosts: 2}}}.WithDefaults()
	if want := []Step{{Hosts: 2}, {Dial: dial.Full}}; !slices.Equal(s.Steps, want) {
		t.Errorf("steps %v, want %v", s.Steps, want)
	}
}

func TestIDs(t *testing.T) {
	if err := CheckID(testID); err != nil {
		t.Error(err)
	}
	if got, want := IDTime(testID), time.UnixMilli(0x0197a1b2c3d4).UTC(); !got.Equal(want) {
		t.Errorf("time %v, want %v", got, want)
	}
	for _, bad := range []string{
		"", "x", strings.ToUpper(testID), strings.Replace(testID, "-7", "-4", 1), strings.Replace(testID, "-8", "-c", 1),
		testID + "0", strings.ReplaceAll(testID, "-", "0"), "../" + testID[3:],
	} {
		if !errors.Is(CheckID(bad), ErrID) || !IDTime(bad).IsZero() {
			t.Errorf("%q passes as an id", bad)
		}
	}
	for name, ok := range map[string]bool{
		"a": true, "web-2": true, strings.Repeat("a", 63): true, strings.Repeat("a", 64): false,
		"": false, "2web": false, "-a": false, "Web": false, "a/b": false, "a.b": false, "ä": false,
	} {
		if got := CheckService(name) == nil; got != ok {
			t.Errorf("service %q: ok %v, want %v", name, got, ok)
		}
	}
}

func TestDigest(t *testing.T) {
	d := DigestOf([]byte("abc")) // FIPS 180-4's own example
	if d != "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("digest of abc is %s", d)
	}
	for _, bad := range []string{"", "sha256:", string(d[:70]), string(d) + "0", strings.ToUpper(string(d)), "sha512" + string(d[6:]), "sha256:" + strings.Repeat("g", 64)} {
		if _, err := ParseDigest(bad); !errors.Is(err, ErrDigest) || Digest(bad).Hex() != "" {
			t.Errorf("%q passes as a digest", bad)
		}
	}
}

func TestLinks(t *testing.T) {
	for _, c := range []struct {
		at, target string
		ok         bool
	}{
		{"a", "b", true}, {"a/b", "../c", true}, {"a/b", "..", true}, {"a", ".", true}, {"a/b/c", "../../x/../y", true},
		{"a", "..", false}, {"a/b", "../..", false}, {"a", "b/../../c", false}, {"a", "/etc", false}, {"a", "", false},
		{"a", "x\x00y", false}, {"../a", "b", false}, {"a", "x//y", true}, {"a/b", "../../a/b", false},
	} {
		if err := CheckLink(c.at, c.target); (err == nil) != c.ok {
			t.Errorf("link %q to %q: %v, want ok %v", c.at, c.target, err, c.ok)
		}
	}
}

func FuzzCheckPath(f *testing.F) {
	for _, s := range []string{"a", "a/b", "-dash", "with space", "ünï", "..", "a/../b", "/a", "a//b", "a/", "a\x00", "a\n", "\xff", "", "..."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if CheckPath(p) != nil {
			return
		}
		for name := range strings.SplitSeq(p, "/") {
			if name == "" || name == "." || name == ".." {
				t.Errorf("%q passes", p)
			}
		}
		if strings.ContainsAny(p, "\x00\n") {
			t.Errorf("%q passes", p)
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	good := encode(f, goodManifest())
	f.Add(good)
	f.Add([]byte(`{"version":1}`))
	f.Add(bytes.Replace(good, []byte(`"web"`), []byte(`"../"`), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			return
		}
		if again, err := m.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("accepted, but encodes to %q (%v)", again, err)
		}
	})
}

func TestStatement(t *testing.T) {
	m := goodManifest()
	manifest := encode(t, m)
	s := NewStatement(m, manifest, "urn:builder:1", "build-1", time.Unix(1, 0), time.Unix(2, 0))
	payload, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseStatement(payload)
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.Check(m, manifest); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Manifest){
		"artifact": func(m *Manifest) { m.Artifact.Digest = DigestOf(nil) },
		"commit":   func(m *Manifest) { m.Commit = strings.Repeat("b", 40) },
		"ref":      func(m *Manifest) { m.Ref = "refs/heads/other" },
		"repo":     func(m *Manifest) { m.Repo = "evil" },
		"service":  func(m *Manifest) { m.Service, m.Recipe.Service = "other", "other" },
		"recipe":   func(m *Manifest) { m.Recipe.Run.Command = "evil" },
		"no digest": func(m *Manifest) {
			m.Artifact.Digest = ""
		},
	} {
		other := m
		change(&other)
		b, _ := other.encode()
		if err := parsed.Check(other, b); !errors.Is(err, ErrMismatch) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	parsed.Subject = parsed.Subject[:1]
	if err := parsed.Check(m, manifest); !errors.Is(err, ErrMismatch) {
		t.Errorf("a missing subject: %v", err)
	}
	for name, text := range map[string]string{
		"type":      strings.Replace(string(payload), StatementType, "x", 1),
		"predicate": strings.Replace(string(payload), PredicateType, "x", 1),
		"build":     strings.Replace(string(payload), BuildType, "x", 1),
		"unknown":   strings.Replace(string(payload), `"subject"`, `"evil":1,"subject"`, 1),
		"trailing":  string(payload) + "x",
	} {
		if _, err := ParseStatement([]byte(text)); !errors.Is(err, ErrStatement) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeepProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, keep := rapid.IntRange(0, 30).Draw(t, "n"), rapid.IntRange(-1, 12).Draw(t, "keep")
		var all []Meta
		referenced := map[string]bool{"": true}
		for i := range n {
			m := Meta{ID: string(rune('a' + i)), PublishedAt: time.Unix(rapid.Int64Range(0, 5).Draw(t, "at"), 0), Pinned: rapid.Bool().Draw(t, "pin")}
			referenced[m.ID] = rapid.Bool().Draw(t, "ref")
			all = append(all, m)
		}
		drop := Keep(rapid.Permutation(all).Draw(t, "order"), keep, referenced)
		if !slices.Equal(drop, Keep(all, keep, referenced)) {
			t.Fatal("the order of the input matters")
		}
		if n-len(drop) < min(n, max(keep, 1)) {
			t.Fatalf("only %d of %d are left, want %d", n-len(drop), n, keep)
		}
		for _, id := range drop {
			d := all[slices.IndexFunc(all, func(m Meta) bool { return m.ID == id })]
			if d.Pinned || referenced[id] {
				t.Fatalf("%s is pinned or referenced and was dropped", id)
			}
			newer := 0
			for _, m := range all {
				if m.PublishedAt.After(d.PublishedAt) || m.PublishedAt.Equal(d.PublishedAt) && m.ID > d.ID {
					newer++
				}
			}
			if newer < max(keep, 1) {
				t.Fatalf("%s was dropped though only %d are newer", id, newer)
			}
		}
	})
}
