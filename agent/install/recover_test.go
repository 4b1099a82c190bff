package install

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestRecover(t *testing.T) {
	all := func(string) bool { return true }
	only := func(ids ...string) func(string) bool { return func(id string) bool { return slices.Contains(ids, id) } }
	cases := map[string]struct {
		j    Journal
		f    Facts
		want Recovery
	}{
		"nothing ever":              {Journal{}, Facts{Has: only()}, Recovery{Action: Keep}},
		"settled":                   {Journal{Active: "b", Previous: "a"}, Facts{"b", "a", all}, Recovery{Action: Keep, Current: "b", Previous: "a"}},
		"killed before any link":    {Journal{Phase: Switching, Active: "a", Previous: "p", Target: "b"}, Facts{"a", "p", all}, Recovery{Action: Keep, Current: "a", Previous: "p"}},
		"killed between the links":  {Journal{Phase: Switching, Active: "a", Previous: "p", Target: "b"}, Facts{"a", "a", all}, Recovery{Action: Keep, Current: "a", Previous: "p"}},
		"killed after the switch":   {Journal{Phase: Switching, Active: "a", Previous: "p", Target: "b"}, Facts{"b", "a", all}, Recovery{Action: Resume, Current: "b", Previous: "a", Target: "b"}},
		"first install, before":     {Journal{Phase: Switching, Target: "b"}, Facts{"", "", all}, Recovery{Action: Keep}},
		"first install, after":      {Journal{Phase: Switching, Target: "b"}, Facts{"b", "", all}, Recovery{Action: Resume, Current: "b", Target: "b"}},
		"target is gone":            {Journal{Phase: Switching, Active: "a", Target: "b"}, Facts{"b", "a", only("a")}, Recovery{Action: Keep, Current: "a"}},
		"on the way back":           {Journal{Phase: Reverting, Active: "a", Previous: "p", Target: "b"}, Facts{"b", "a", all}, Recovery{Action: GoBack, Current: "a", Previous: "p", Target: "b"}},
		"first install, way back":   {Journal{Phase: Reverting, Target: "b"}, Facts{"b", "", all}, Recovery{Action: GoBack, Target: "b"}},
		"link moved by hand":        {Journal{Active: "b", Previous: "a"}, Facts{"a", "a", all}, Recovery{Action: Keep, Current: "b", Previous: "a"}},
		"active gone from disk":     {Journal{Active: "b", Previous: "a"}, Facts{"b", "a", only("a")}, Recovery{Action: Keep, Current: "a"}},
		"journal lost":              {Journal{}, Facts{"b", "a", all}, Recovery{Action: Keep, Current: "b", Previous: "a"}},
		"everything gone from disk": {Journal{Active: "b"}, Facts{"b", "a", only()}, Recovery{Action: Keep}},
	}
	for name, c := range cases {
		got := Recover(c.j, c.f)
		got.Reason = ""
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestRecoverNamesWhatIsThere: whatever the journal and the links say, what is to run is on disk and is one of the
// releases they name, and nothing is only when none of those is on disk.
func TestRecoverNamesWhatIsThere(t *testing.T) {
	id := rapid.SampledFrom([]string{"", "a", "b", "c"})
	rapid.Check(t, func(t *rapid.T) {
		disk := rapid.SliceOfDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), rapid.ID).Draw(t, "disk")
		j := Journal{
			Phase:  rapid.SampledFrom([]Phase{Settled, Switching, Reverting}).Draw(t, "phase"),
			Active: id.Draw(t, "active"), Previous: id.Draw(t, "previous"), Target: id.Draw(t, "target"),
		}
		f := Facts{Current: id.Draw(t, "current"), Previous: id.Draw(t, "link"), Has: func(id string) bool { return slices.Contains(disk, id) }}
		r := Recover(j, f)
		if r.Current != "" && !slices.Contains(disk, r.Current) {
			t.Fatalf("%+v with %v on disk: runs %q", r, disk, r.Current)
		}
		if r.Current == "" && slices.Contains(disk, j.Active) {
			t.Fatalf("%+v: runs nothing although %q is on disk", r, j.Active)
		}
		// Doing what it says and dying again leads to the same answer.
		again := Recover(Journal{Phase: Settled, Active: r.Current, Previous: r.Previous}, Facts{Current: r.Current, Previous: r.Previous, Has: f.Has})
		if again.Current != r.Current || again.Action != Keep {
			t.Fatalf("%+v, then %+v", r, again)
		}
	})
}
