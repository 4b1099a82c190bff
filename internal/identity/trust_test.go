package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/release"
)

var day = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newTestSigner(t testing.TB) *Signer {
	t.Helper()
	s, err := NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// signedRelease is a manifest, its bytes and its envelope by s.
func signedRelease(t testing.TB, s *Signer, change func(*release.Manifest)) (release.Manifest, []byte, []byte) {
	t.Helper()
	m := release.Manifest{Version: 1, Service: "web", ID: "0198c0de-0000-7000-8000-000000000001", Commit: strings.Repeat("c", 40),
		Ref: "refs/heads/main", Repo: "https://git.example/web.git", CreatedAt: day,
		Artifact: release.Artifact{Digest: release.DigestOf([]byte("artifact")), Size: 8}}
	if change != nil {
		change(&m)
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	statement, err := json.Marshal(release.NewStatement(m, manifest, "builder", "build-1", day, day))
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := s.SignRelease(statement)
	if err != nil {
		t.Fatal(err)
	}
	return m, manifest, envelope
}

func entry(s *Signer, change func(*record.Builder)) record.Builder {
	b := record.Builder{KeyID: s.KeyID(), Name: "ci", Public: s.Public()}
	if change != nil {
		change(&b)
	}
	return b
}

// trustIn is a Trust with these keys in force.
func trustIn(t testing.TB, ca *CA, version int64, keys ...record.Builder) *Trust {
	t.Helper()
	env, err := ca.SignBundle(Bundle{Version: version, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	trust := NewTrust(ca.Certificate())
	if changed, err := trust.Update(env); err != nil || !changed {
		t.Fatalf("Update = %t, %v", changed, err)
	}
	return trust
}

func TestVerifyRelease(t *testing.T) {
	ca, s, other := newTestCA(t), newTestSigner(t), newTestSigner(t)
	for _, tc := range []struct {
		name     string
		key      func(*record.Builder)
		manifest func(*release.Manifest)
		signer   *Signer
		want     string // part of the error, "" for none
	}{
		{name: "good"},
		{name: "unknown key", signer: other, want: "not in the trust bundle"},
		{name: "revoked", key: func(b *record.Builder) { b.Revoked = true }, want: "revoked"},
		{name: "service fits", key: func(b *record.Builder) { b.Services = []string{"api", "we*"} }},
		{name: "service does not fit", key: func(b *record.Builder) { b.Services = []string{"api"} }, want: `service "web"`},
		{name: "ref fits", key: func(b *record.Builder) { b.Refs = []string{"refs/heads/*"} }},
		{name: "ref below", key: func(b *record.Builder) { b.Refs = []string{"refs/**"} }},
		{name: "star stops at a slash", key: func(b *record.Builder) { b.Refs = []string{"refs/*"} }, want: `ref "refs/heads/main"`},
		{name: "no ref", key: func(b *record.Builder) { b.Refs = []string{"refs/heads/main"} }, manifest: func(m *release.Manifest) { m.Ref = "" }, want: `ref ""`},
		{name: "within its time", key: func(b *record.Builder) { b.NotBefore, b.NotAfter = day.Add(-time.Hour), day.Add(time.Hour) }},
		{name: "just expired, within tolerance", key: func(b *record.Builder) { b.NotAfter = day.Add(-9 * time.Minute) }},
		{name: "expired", key: func(b *record.Builder) { b.NotAfter = day.Add(-11 * time.Minute) }, want: "expired"},
		{name: "early, within tolerance", key: func(b *record.Builder) { b.NotBefore = day.Add(9 * time.Minute) }},
		{name: "too early", key: func(b *record.Builder) { b.NotBefore = day.Add(11 * time.Minute) }, want: "valid only from"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			signer := s
			if tc.signer != nil {
				signer = tc.signer
			}
			m, manifest, env := signedRelease(t, signer, tc.manifest)
			id, err := trustIn(t, ca, 1, entry(s, tc.key)).VerifyRelease(m, manifest, env)
			switch {
			case tc.want == "" && (err != nil || id != s.KeyID()):
				t.Errorf("VerifyRelease = %q, %v", id, err)
			case tc.want != "" && (!errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("VerifyRelease: %v, want ErrUntrusted with %q", err, tc.want)
			}
		})
	}
}

func TestVerifyReleaseBindsContent(t *testing.T) {
	s := newTestSigner(t)
	trust := trustIn(t, newTestCA(t), 1, entry(s, nil))
	m, manifest, env := signedRelease(t, s, nil)
	check := func(name string, m release.Manifest, manifest, env []byte) {
		t.Helper()
		if _, err := trust.VerifyRelease(m, manifest, env); !errors.Is(err, ErrUntrusted) {
			t.Errorf("%s: %v, want ErrUntrusted", name, err)
		}
	}
	check("another manifest", m, append(bytes.Clone(manifest), ' '), env)
	swapped := m
	swapped.Artifact.Digest = release.DigestOf([]byte("evil"))
	check("another artifact", swapped, manifest, env)
	renamed := m
	renamed.Service = "api"
	check("another service", renamed, manifest, env)

	// Signed payload replaced, signature kept; key id of a trusted key with a stranger's signature.
	_, _, strange := signedRelease(t, newTestSigner(t), nil)
	var forged, theirs map[string]any
	if err := errors.Join(json.Unmarshal(env, &forged), json.Unmarshal(strange, &theirs)); err != nil {
		t.Fatal(err)
	}
	theirs["signatures"].([]any)[0].(map[string]any)["keyid"] = s.KeyID()
	b, err := json.Marshal(theirs)
	if err != nil {
		t.Fatal(err)
	}
	check("a stranger's signature under our key id", m, manifest, b)
	forged["payloadType"] = "text/plain"
	if b, err = json.Marshal(forged); err != nil {
		t.Fatal(err)
	}
	check("another payload type", m, manifest, b)
	check("too long", m, manifest, make([]byte, MaxEnvelope+1))
	check("empty", m, manifest, nil)
	if _, err := NewTrust(newTestCA(t).Certificate()).VerifyRelease(m, manifest, env); !errors.Is(err, ErrUntrusted) {
		t.Errorf("before any bundle: %v", err)
	}
}

func TestKeyRotation(t *testing.T) {
	ca, old, next := newTestCA(t), newTestSigner(t), newTestSigner(t)
	ended := func(b *record.Builder) { b.NotAfter = day.Add(24 * time.Hour) }
	trust := trustIn(t, ca, 2, entry(old, ended), entry(next, nil))
	oldM, oldBytes, oldEnv := signedRelease(t, old, nil)
	later := day.Add(90 * 24 * time.Hour)
	// A way back to what the old key signed stays open, but it cannot publish anything new.
	if _, err := trust.VerifyRelease(oldM, oldBytes, oldEnv); err != nil {
		t.Errorf("a release from before the rotation: %v", err)
	}
	if _, err := trust.VerifyPublish(oldM, oldBytes, oldEnv, later); !errors.Is(err, ErrUntrusted) {
		t.Errorf("publishing with an expired key: %v", err)
	}
	m, manifest, env := signedRelease(t, next, func(m *release.Manifest) { m.CreatedAt = later })
	if _, err := trust.VerifyPublish(m, manifest, env, later); err != nil {
		t.Errorf("publishing with the new key: %v", err)
	}
	if _, err := trust.VerifyPublish(m, manifest, env, day); !errors.Is(err, ErrUntrusted) {
		t.Errorf("publishing from the future: %v", err)
	}
}

func TestTrustNeverGoesBack(t *testing.T) {
	ca, s := newTestCA(t), newTestSigner(t)
	trust := trustIn(t, ca, 7, entry(s, func(b *record.Builder) { b.Revoked = true }))
	bundle := func(ca *CA, version int64) []byte {
		env, err := ca.SignBundle(Bundle{Version: version, Keys: []record.Builder{entry(s, nil)}})
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	if _, err := trust.Update(bundle(ca, 6)); !errors.Is(err, ErrOlder) {
		t.Errorf("older: %v", err)
	}
	if changed, err := trust.Update(bundle(ca, 7)); changed || err != nil {
		t.Errorf("same version: %t, %v", changed, err)
	}
	if _, err := trust.Update(bundle(newTestCA(t), 8)); !errors.Is(err, ErrBundle) {
		t.Errorf("another CA: %v", err)
	}
	if m, manifest, env := signedRelease(t, s, nil); true {
		if _, err := trust.VerifyRelease(m, manifest, env); err == nil {
			t.Error("the revoked key is trusted again")
		}
	}
	if changed, err := trust.Update(bundle(ca, 8)); !changed || err != nil || trust.Version() != 8 {
		t.Errorf("newer: %t, %v", changed, err)
	}
}

func TestBadBundles(t *testing.T) {
	ca, s := newTestCA(t), newTestSigner(t)
	for name, b := range map[string]Bundle{
		"version 0":      {},
		"foreign key id": {Version: 1, Keys: []record.Builder{entry(s, func(b *record.Builder) { b.KeyID = KeyID(newTestSigner(t).Public()) })}},
		"short key":      {Version: 1, Keys: []record.Builder{entry(s, func(b *record.Builder) { b.Public = b.Public[:31] })}},
		"no name":        {Version: 1, Keys: []record.Builder{entry(s, func(b *record.Builder) { b.Name = "" })}},
		"twice":          {Version: 1, Keys: []record.Builder{entry(s, nil), entry(s, nil)}},
		"bad pattern":    {Version: 1, Keys: []record.Builder{entry(s, func(b *record.Builder) { b.Refs = []string{"["} })}},
		"ends first":     {Version: 1, Keys: []record.Builder{entry(s, func(b *record.Builder) { b.NotBefore, b.NotAfter = day, day })}},
	} {
		if _, err := ca.SignBundle(b); !errors.Is(err, ErrBundle) {
			t.Errorf("%s: %v, want ErrBundle", name, err)
		}
	}
}

func TestSignerSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "builder.pem")
	s, err := LoadOrNewSigner(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadSigner(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s.Public(), again.Public()); diff != "" || s.KeyID() != again.KeyID() {
		t.Errorf("another key was loaded: %s", diff)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadSigner(path); err == nil {
		t.Error("a key that others may read was loaded")
	}
	if err := newTestCA(t).Save(path); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadSigner(path); err == nil || strings.Contains(err.Error(), "PRIVATE") {
		t.Errorf("an ECDSA key was loaded as a builder's, or shown: %v", err)
	}
}

func FuzzOpenBundle(f *testing.F) {
	ca := newTestCA(f)
	s, err := NewSigner()
	if err != nil {
		f.Fatal(err)
	}
	good, err := ca.SignBundle(Bundle{Version: 3, Keys: []record.Builder{entry(s, nil)}})
	if err != nil {
		f.Fatal(err)
	}
	m, manifest, _ := signedRelease(f, s, nil)
	trust := trustIn(f, ca, 1)
	f.Add(good)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"payloadType":"application/vnd.murmur.trust+json","payload":"e30=","signatures":[{"keyid":"","sig":"AA=="}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Only the CA can make a bundle: whatever opens must be the one that it signed.
		if b, err := OpenBundle(ca.Certificate(), data); err == nil && (b.Version != 3 || len(b.Keys) != 1 || b.Keys[0].KeyID != s.KeyID()) {
			t.Errorf("opened %+v", b)
		}
		if id, err := trust.VerifyRelease(m, manifest, data); err == nil {
			t.Errorf("an empty trust accepted a release by %s", id)
		}
	})
}
