package build

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/release"
)

func (r *testRepo) changes(commit, previous string) []release.Change {
	r.tb.Helper()
	repo, err := OpenRepo(r.dir)
	if err != nil {
		r.tb.Fatal(err)
	}
	got, err := repo.Changes(r.tb.Context(), commit, previous)
	if err != nil {
		r.tb.Fatal(err)
	}
	return got
}

func subjects(changes []release.Change) string {
	var out []string
	for _, c := range changes {
		out = append(out, fmt.Sprintf("%s +%d -%d", c.Subject, c.Added, c.Removed))
	}
	return strings.Join(out, "; ")
}

func TestChanges(t *testing.T) {
	r := newRepo(t)
	r.write("a", "1\n2\n3\n")
	first := r.commit("first")
	r.write("a", "1\ntwo\n3\n4\n")
	second := r.commit("second")
	r.git("checkout", "-q", "-b", "topic", first)
	r.write("b", "x\ny")
	r.write("bin", "\x00\x01\n\n")
	r.commit("on topic")
	r.git("checkout", "-q", "main")
	r.git("merge", "-q", "--no-ff", "-m", "merge", "topic")
	merge := r.git("rev-parse", "HEAD")
	r.git("rm", "-q", "a")
	last := r.commit("remove")

	for _, tt := range []struct{ name, commit, previous, want string }{
		{"one", second, first, "second +2 -1"},
		{"alone without previous", first, "", "first +3 -0"},
		{"unknown previous", first, strings.Repeat("1", 40), "first +3 -0"},
		{"same", second, second, "second +2 -1"},
		{"backwards", first, second, ""},
	} {
		if got := subjects(r.changes(tt.commit, tt.previous)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	got := subjects(r.changes(last, second))
	if !strings.HasPrefix(got, "remove +0 -4; ") || !strings.Contains(got, "on topic +2 -0") || !strings.Contains(got, "merge +0 -0") || strings.Contains(got, "second") || strings.Contains(got, "first") {
		t.Errorf("since second: %q", got)
	}
	if got := subjects(r.changes(merge, r.git("rev-parse", "topic"))); !strings.Contains(got, "second +2 -1") || strings.Contains(got, "topic") {
		t.Errorf("since topic: %q", got)
	}
}

// TestChangesAgreeWithGit compares with git's own answer on a history with several merges.
func TestChangesAgreeWithGit(t *testing.T) {
	r := newRepo(t)
	r.commit("root")
	for i := range 6 {
		r.git("checkout", "-q", "-b", fmt.Sprint("b", i), "main")
		r.commit(fmt.Sprint("side ", i))
		r.git("checkout", "-q", "main")
		r.commit(fmt.Sprint("main ", i))
		if i%2 == 0 {
			r.git("merge", "-q", "--no-ff", "-m", fmt.Sprint("merge ", i), fmt.Sprint("b", i))
		}
	}
	for _, base := range []string{"main~1", "main~3", "main~7", "b0", "b1", "b4", "b5"} {
		want := map[string]bool{}
		for id := range strings.FieldsSeq(r.git("rev-list", base+"..main")) {
			want[id] = true
		}
		got := map[string]bool{}
		for _, c := range r.changes(r.git("rev-parse", "main"), r.git("rev-parse", base)) {
			got[c.Commit] = true
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s..main (-git +got):\n%s", base, diff)
		}
	}
}

func TestReviewers(t *testing.T) {
	for _, tt := range []struct {
		message string
		want    []string
	}{
		{"subject", nil},
		{"Reviewed-by: subject <s@x>", nil},
		{"subject\n\nReviewed-by: in the middle <m@x>\n\nlast paragraph", nil},
		{"subject\n\nbody\n\nSigned-off-by: B <b@x>\nreviewed-BY:  A <a@x>  \nReviewed-by: C <c@x>\nReviewed-by: A <a@x>\n", []string{"A <a@x>", "C <c@x>"}},
		{"subject\r\n\r\nReviewed-by: A <a@x>\r\n", []string{"A <a@x>"}},
		{"subject\n\nReviewed-by:\nReviewed-by: \x1b[31mred\x00\n", []string{"[31mred"}},
	} {
		if diff := cmp.Diff(tt.want, reviewers(tt.message)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.message, diff)
		}
	}
	if n := len(reviewers("s\n\n" + strings.Repeat("Reviewed-by: x\n", 3) + func() (s string) {
		for i := range 100 {
			s += fmt.Sprintf("Reviewed-by: r%d\n", i)
		}
		return s
	}())); n != 20 {
		t.Errorf("%d reviewers, want 20", n)
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"  a\nb\tc ":              "abc",
		"bad \xff utf-8":          "bad \ufffd utf-8",
		strings.Repeat("ü", 1000): strings.Repeat("ü", 150) + "...",
		"\x9b31m":                 "\ufffd31m",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("oneLine(%.20q) = %q, want %q", in, got, want)
		}
	}
}
