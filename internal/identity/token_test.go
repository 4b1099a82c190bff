package identity

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestJoinTokenRoundTrip(t *testing.T) {
	id, secret := newSecret()
	want := JoinToken{ID: id, Secret: secret, CA: strings.Repeat("0a", 32)}
	got, err := ParseJoinToken(want.String())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTokensAreRefused(t *testing.T) {
	fp := strings.Repeat("0a", 32)
	for _, s := range []string{
		"", "mj1", "mj1.a.b", "mj1.a.b.c", "mj2.a.b." + fp, "mj1..b." + fp, "mj1.a.." + fp, "mj1.a/b.c." + fp,
		"mj1.a.b." + strings.ToUpper(fp), "mj1.a.b." + fp + ".x", "mj1." + strings.Repeat("a", 300) + ".b." + fp, "mt1.a.b." + fp,
	} {
		if _, err := ParseJoinToken(s); err == nil {
			t.Errorf("%q was accepted", s)
		} else if len(s) > 8 && strings.Contains(err.Error(), s[4:]) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
	for _, s := range []string{"", "mt1", "mt1.a", "mt1.a.b.c", "mj1.a.b", "mt1.a.b ", "mt1.ä.b", "MT1.a.b"} {
		if b, ok := parseBearer(s); ok {
			t.Errorf("%q was accepted as %v", s, b)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("mj1.abc.def." + strings.Repeat("0a", 32))
	f.Add("mt1.abc.def")
	f.Add("ms1.abc.def")
	f.Add("mj1....")
	f.Fuzz(func(t *testing.T, s string) {
		if j, err := ParseJoinToken(s); err == nil && j.String() != s {
			t.Errorf("%q parses as %q", s, j)
		}
		if b, ok := parseBearer(s); ok && b.String() != s {
			t.Errorf("%q parses as %q", s, b)
		}
		// What a token names must be good as part of a key.
		if b, ok := parseBearer(s); ok && tokenKey(b.id).Valid() != nil {
			t.Errorf("%q has an id that is no key", s)
		}
	})
}

func FuzzParsePHC(f *testing.F) {
	f.Add(newHasher(PasswordCost{}).dummy)
	f.Add("$argon2id$v=19$m=4294967295,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=1,t=0,p=0$$")
	f.Fuzz(func(t *testing.T, s string) {
		cost, salt, key, err := parsePHC(s)
		if err != nil {
			return
		}
		if cost.MemoryKiB > maxMemoryKiB || cost.Passes < 1 || cost.Passes > maxPasses || cost.Threads < 1 || len(salt) < 8 || len(key) < 16 {
			t.Errorf("%q parses as %+v", s, cost)
		}
	})
}
