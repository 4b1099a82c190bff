package hooks

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	idA = strings.Repeat("a", 40)
	idB = strings.Repeat("b", 40)
)

func TestReadUpdates(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     []update
		wantErr  string
	}{
		{"nothing", "", nil, ""},
		{"one", idA + " " + idB + " refs/heads/main\n", []update{{idA, idB, "refs/heads/main"}}, ""},
		{"created, deleted", zeroID + " " + idA + " refs/heads/a\n" + idA + " " + zeroID + " refs/heads/b\n",
			[]update{{zeroID, idA, "refs/heads/a"}, {idA, zeroID, "refs/heads/b"}}, ""},
		{"utf-8", idA + " " + idB + " refs/heads/größe\n", []update{{idA, idB, "refs/heads/größe"}}, ""},
		{"two words", idA + " " + idB + "\n", nil, "line 1"},
		{"short id", idA[:39] + " " + idB + " refs/heads/main\n", nil, "is not"},
		{"upper case id", strings.ToUpper(idA) + " " + idB + " refs/heads/main\n", nil, "is not"},
		{"option as ref", idA + " " + idB + " --upload-pack=x\n", nil, "not a ref's name"},
		{"ref with dots", idA + " " + idB + " refs/heads/../x\n", nil, "not a ref's name"},
		{"ref with space", idA + " " + idB + " refs/heads/a b\n", nil, "not a ref's name"},
		{"ref with control", idA + " " + idB + " refs/heads/a\x1b[2J\n", nil, "not a ref's name"},
		{"nothing to nothing", zeroID + " " + zeroID + " refs/heads/main\n", nil, "neither"},
		{"endless line", strings.Repeat("a", 1<<20), nil, "too long"},
		{"too many", strings.Repeat(idA+" "+idB+" refs/heads/main\n", maxUpdates+1), nil, "more than 10000 refs"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readUpdates(strings.NewReader(tt.in))
			if (err == nil) != (tt.wantErr == "") || (err != nil && !strings.Contains(err.Error(), tt.wantErr)) {
				t.Fatalf("error = %v, want %q", err, tt.wantErr)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(update{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzReadUpdates(f *testing.F) {
	f.Add(idA + " " + idB + " refs/heads/main\n")
	f.Add(zeroID + " " + idA + " refs/tags/v1\n" + idA + " " + zeroID + " refs/heads/x\n")
	f.Add("\n \n  \x00")
	f.Fuzz(func(t *testing.T, in string) {
		updates, err := readUpdates(strings.NewReader(in))
		if err != nil && updates != nil {
			t.Error("an error with updates")
		}
		for _, u := range updates {
			if !strings.Contains(in, u.old+" "+u.new+" "+u.ref) {
				t.Errorf("%+v is not in the input", u)
			}
			if strings.ContainsAny(u.ref, " \n\x00~^:?*[\\") || !strings.HasPrefix(u.ref, "refs/") {
				t.Errorf("ref %q was accepted", u.ref)
			}
		}
	})
}
