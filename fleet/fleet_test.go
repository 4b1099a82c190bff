package fleet_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/murmuration/murmuration/fleet"
)

func TestMatches(t *testing.T) {
	host := fleet.Host{ID: "h1", Name: "web-1", Labels: map[string]string{"role": "web", "dc": "a", "canary": "", "team.io/x": "1"}}
	for _, test := range []struct {
		selector string
		want     bool
	}{
		{"", true},
		{"  ", true},
		{"role=web", true},
		{"role==web", true},
		{" role = web , dc in ( b , a ) ", true},
		{"role=db", false},
		{"role!=db", true},
		{"role!=web", false},
		{"rack!=r1", true}, // no such label
		{"rack=", false},
		{"canary=", true},
		{"canary", true},
		{"!canary", false},
		{"! gpu", true},
		{"gpu", false},
		{"dc notin (b,c)", true},
		{"dc notin (a)", false},
		{"rack notin (a)", true},
		{"rack in (a)", false},
		{"team.io/x=1", true},
		{"name=web-1,id=h1", true},
		{"name in (web-2)", false},
		{"role=web,dc=b", false},
		{"in in (a)", false},
	} {
		s, err := fleet.Parse(test.selector)
		if err != nil {
			t.Errorf("Parse(%q): %v", test.selector, err)
			continue
		}
		if got := s.Matches(host); got != test.want {
			t.Errorf("%q matches: %v, want %v", test.selector, got, test.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for selector, want := range map[string]string{
		",":                              `at byte 1: expected a label, found ","`,
		"role=web,":                      "at byte 10: expected a label, found the end",
		"role=web dc=a":                  `at byte 10: expected a comma or the end, found "dc=a"`,
		"role in a":                      `at byte 9: expected ( and a list of values, found "a"`,
		"role in (a":                     "at byte 11: expected a comma or ), found the end",
		"role=we$b":                      `at byte 8: expected a comma or the end, found "$b"`,
		"-role=web":                      "at byte 1: bad label: key \"-role\" may not have '-' at byte 0",
		"role=-web":                      "at byte 6: bad label: value \"-web\" may not have '-' at byte 0",
		"!":                              "at byte 2: expected a label, found the end",
		"a>1":                            `at byte 2: expected a comma or the end, found ">1"`,
		strings.Repeat("a", 200):         "at byte 1: bad label: key of 200 bytes, it must have 1 to 128",
		"a=" + strings.Repeat("b", 100):  "at byte 3: bad label: value of 100 bytes, the limit is 63",
		strings.Repeat("a,", 4096) + "a": "8193 bytes, the limit is 4096",
	} {
		_, err := fleet.Parse(selector)
		if !errors.Is(err, fleet.ErrSelector) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("Parse(%.20q) = %v, want ... %s", selector, err, want)
		}
	}
}

// FuzzParse checks that whatever parses prints as something that parses to the same selector.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "role=web,dc in (a,b),rack!=r1,!gpu,canary", "a notin (,)", "in in (in)", "a==", "!a,!b", "a=\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := fleet.Parse(text)
		if err != nil {
			if !errors.Is(err, fleet.ErrSelector) {
				t.Fatalf("Parse(%q): %v does not wrap ErrSelector", text, err)
			}
			return
		}
		canonical := s.String()
		again, err := fleet.Parse(canonical)
		if err != nil && len(canonical) <= fleet.MaxSelector {
			t.Fatalf("Parse(%q) prints as %q: %v", text, canonical, err)
		}
		if err == nil && again.String() != canonical {
			t.Fatalf("%q prints as %q, then as %q", text, canonical, again)
		}
	})
}

func hosts(t *rapid.T) []fleet.Host {
	n := rapid.IntRange(0, 40).Draw(t, "n")
	list := make([]fleet.Host, n)
	for i := range list {
		list[i] = fleet.Host{ID: fmt.Sprintf("h%d", i), Labels: map[string]string{
			fleet.LabelDC:   rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "dc"),
			fleet.LabelRack: rapid.SampledFrom([]string{"r1", "r2", "r3"}).Draw(t, "rack"),
		}}
	}
	return list
}

func ids(hosts []fleet.Host) []string {
	list := make([]string, len(hosts))
	for i, h := range hosts {
		list[i] = h.ID
	}
	return list
}

func rackOf(h fleet.Host) string { return h.DC() + "/" + h.Rack() }

// TestOrder checks the promises of Order on random fleets.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := hosts(t)
		first := rapid.IntRange(-1, 45).Draw(t, "first")
		salt := rapid.SampledFrom([]string{"web", "db"}).Draw(t, "salt")
		ordered := fleet.Order(list, salt, first)

		shuffled := rapid.Permutation(list).Draw(t, "shuffled")
		if diff := cmp.Diff(ids(ordered), ids(fleet.Order(shuffled, salt, first))); diff != "" {
			t.Fatalf("the order depends on the order given:\n%s", diff)
		}
		if got, want := slices.Sorted(slices.Values(ids(ordered))), slices.Sorted(slices.Values(ids(list))); !slices.Equal(got, want) {
			t.Fatalf("hosts %v became %v", want, got)
		}
		canaries := min(max(first, 0), len(list))
		checkSpread(t, list, ordered[:canaries])
		rest := ordered[canaries:]
		if !slices.IsSortedFunc(rest, func(a, b fleet.Host) int { return strings.Compare(a.DC(), b.DC()) }) {
			t.Fatalf("the rest is not grouped by data centre: %v", ids(rest))
		}
	})
}

// checkSpread: no rack has two canaries more than another that has hosts left.
func checkSpread(t *rapid.T, all, canaries []fleet.Host) {
	size, chosen := map[string]int{}, map[string]int{}
	for _, h := range all {
		size[rackOf(h)]++
	}
	for _, h := range canaries {
		chosen[rackOf(h)]++
	}
	for rack, n := range chosen {
		for other := range size {
			if chosen[other] < n-1 && chosen[other] < size[other] {
				t.Fatalf("rack %s has %d canaries, %s only %d of %d hosts", rack, n, other, chosen[other], size[other])
			}
		}
	}
}

// TestOrderIsStable adds a host: no two others that are canaries neither before nor after change places.
func TestOrderIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := hosts(t)
		first := rapid.IntRange(0, 6).Draw(t, "first")
		extra := fleet.Host{ID: "new", Labels: map[string]string{
			fleet.LabelDC: rapid.SampledFrom([]string{"a", "c"}).Draw(t, "dc"), fleet.LabelRack: "r2",
		}}
		before := ids(fleet.Order(list, "web", first))
		after := ids(fleet.Order(append(slices.Clone(list), extra), "web", first))
		moved := map[string]bool{"new": true}
		for _, id := range append(slices.Clone(before[:min(first, len(before))]), after[:min(first, len(after))]...) {
			moved[id] = true
		}
		still := func(list []string) []string {
			return slices.DeleteFunc(slices.Clone(list), func(id string) bool { return moved[id] })
		}
		if diff := cmp.Diff(still(before), still(after)); diff != "" {
			t.Fatalf("a new host moved others:\n%s", diff)
		}
		if first == 0 && len(list) > 0 && len(still(before)) != len(before) {
			t.Fatalf("without canaries nothing may move")
		}
	})
}

func TestParseBudget(t *testing.T) {
	for _, test := range []struct {
		text    string
		n, want int
	}{
		{"3", 100, 3}, {"3", 1, 3}, {"25%", 100, 25}, {"25%", 10, 2}, {"25%", 3, 1}, {"1%", 0, 1}, {"100%", 7, 7}, {"007", 1, 7},
	} {
		if got, err := fleet.ParseBudget(test.text, test.n); err != nil || got != test.want {
			t.Errorf("ParseBudget(%q, %d) = %d, %v, want %d", test.text, test.n, got, err, test.want)
		}
	}
	for _, text := range []string{"", "%", "0", "0%", "101%", "-1", "+1", "1.5", "25 %", "99999999999999999999", "1000001"} {
		if got, err := fleet.ParseBudget(text, 10); !errors.Is(err, fleet.ErrBudget) {
			t.Errorf("ParseBudget(%q) = %d, %v, want ErrBudget", text, got, err)
		}
	}
}

func TestBlastRadius(t *testing.T) {
	at := func(places ...string) []fleet.Host {
		var list []fleet.Host
		for _, p := range places {
			dc, rack, _ := strings.Cut(p, "/")
			list = append(list, fleet.Host{Labels: map[string]string{fleet.LabelDC: dc, fleet.LabelRack: rack}})
		}
		return list
	}
	for want, hosts := range map[string][]fleet.Host{
		"no hosts":                       nil,
		"1 host":                         at("/"),
		"1 host in rack r1 of dc a":      at("a/r1"),
		"2 hosts in rack r1":             at("/r1", "/r1"),
		"2 hosts in dc a":                at("a/", "a/"),
		"3 hosts in 2 racks of dc a":     at("a/r1", "a/r2", "a/r1"),
		"2 hosts in 2 racks of dcs a, b": at("a/r1", "b/r1"),
		"5 hosts in 5 racks of 5 dcs":    at("a/r1", "b/r1", "c/r1", "d/r1", "e/r1"),
	} {
		if got := fleet.BlastRadius(hosts); got != want {
			t.Errorf("BlastRadius = %q, want %q", got, want)
		}
	}
}

func TestParseInventory(t *testing.T) {
	want := []fleet.Host{
		{ID: "1", Name: "web-1", Labels: map[string]string{"dc": "a", "rack": "r1"}},
		{Name: "web-2", Labels: map[string]string{"dc": "a"}},
	}
	for format, data := range map[string]string{
		"csv":  "\ufeffname, id,dc,rack\nweb-1,1,a,r1\n web-2,,a,\n",
		"json": `[{"id":"1","name":"web-1","labels":{"dc":"a","rack":"r1"}},{"name":"web-2","labels":{"dc":"a"}}]`,
	} {
		got, err := fleet.ParseInventory([]byte(data), format)
		if err != nil {
			t.Errorf("%s: %v", format, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", format, diff)
		}
	}
}

func TestParseInventoryErrors(t *testing.T) {
	for _, test := range []struct{ format, data, want string }{
		{"yaml", "", `format "yaml" is neither csv nor json`},
		{"csv", "", "empty: the first line must name the columns"},
		{"csv", "id,dc\n", `there is no column "name"`},
		{"csv", "name,dc,dc\n", `line 1: column "dc" is there twice`},
		{"csv", "name,d c\n", `line 1: column 2: bad label: key "d c" may not have ' ' at byte 1`},
		{"csv", "name,dc\nweb-1,a\n\nweb-1,b\n", `line 4: name "web-1" is already in line 2`},
		{"csv", "name,dc\nweb-1\n", "record on line 2: wrong number of fields"},
		{"csv", "name,dc\n,a\n", "line 2: name of 0 bytes"},
		{"csv", "name,dc\n../etc,a\n", `line 2: name "../etc" may not have '.' at byte 0`},
		{"csv", "name,dc\nweb-1,a b\n", `line 2: dc: bad label: value "a b" may not have ' ' at byte 1`},
		{"json", `{}`, "it must be an array of hosts"},
		{"json", `[{"name":"a"},{"nome":"b"}]`, `row 2: json: unknown field "nome"`},
		{"json", `[{"name":"a"}`, "the array does not end"},
		{"json", `[{"name":"a"}] x`, "there is something behind the array"},
		{"json", `[{"name":"a","id":"1"},{"name":"b","id":"1"}]`, `row 2: id "1" is already in row 1`},
		{"json", `[{"name":"a","labels":{"name":"b"}}]`, `row 1: bad label: the key "name" stands for the host's own name`},
	} {
		_, err := fleet.ParseInventory([]byte(test.data), test.format)
		if !errors.Is(err, fleet.ErrInventory) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %q: %v, want ... %s", test.format, test.data, err, test.want)
		}
	}
}

// TestParseInventoryReportsAll reports every wrong row, but not endlessly.
func TestParseInventoryReportsAll(t *testing.T) {
	data := "name\n" + strings.Repeat("$\n", 50)
	_, err := fleet.ParseInventory([]byte(data), "csv")
	if n := strings.Count(fmt.Sprint(err), "line "); n != 20 {
		t.Errorf("%d rows reported, want 20", n)
	}
}

// FuzzParseInventory checks that no input breaks the parser and that what it accepts is valid.
func FuzzParseInventory(f *testing.F) {
	f.Add([]byte("name,dc\nweb-1,a\n"), "csv")
	f.Add([]byte("name,\"dc\nx\"\n\"a"), "csv")
	f.Add([]byte(`[{"name":"a","labels":{"x":"y"}}]`), "json")
	f.Add([]byte(`[[[[`), "json")
	f.Fuzz(func(t *testing.T, data []byte, format string) {
		list, err := fleet.ParseInventory(data, format)
		if err != nil {
			if !errors.Is(err, fleet.ErrInventory) || list != nil {
				t.Fatalf("%v, %v", list, err)
			}
			return
		}
		for _, h := range list {
			if err := errors.Join(fleet.ValidateName(h.Name), fleet.ValidateLabels(h.Labels)); err != nil {
				t.Fatalf("accepted %v: %v", h, err)
			}
		}
	})
}

func TestValidateLabels(t *testing.T) {
	many := map[string]string{}
	for i := range fleet.MaxLabels + 1 {
		many[fmt.Sprint("k", i)] = ""
	}
	for _, labels := range []map[string]string{
		many, {"": "x"}, {"a b": "x"}, {"id": "x"}, {"a": "x/y"}, {"a": ".x"}, {"a": "é"}, {strings.Repeat("k", 129): ""},
	} {
		if err := fleet.ValidateLabels(labels); !errors.Is(err, fleet.ErrLabel) {
			t.Errorf("%.40v: %v, want ErrLabel", labels, err)
		}
	}
	if err := fleet.ValidateLabels(map[string]string{"example.com/role": "web_1.x-2", "empty": ""}); err != nil {
		t.Error(err)
	}
}
