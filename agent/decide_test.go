package agent

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/murmuration/murmuration/agent/install"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

func on(ids ...string) func(string) bool {
	return func(id string) bool { return strings.Contains(strings.Join(ids, " "), id) && id != "" }
}

func TestDecide(t *testing.T) {
	failed := install.Attempt{Release: "b", Retry: 1, Outcome: install.Failed}
	pin := &install.Pin{From: "b", To: "a"}
	cases := map[string]struct {
		w    wish
		h    have
		want verb
		rel  string
	}{
		"nothing wanted":             {wish{}, have{Active: "a", Ready: on("a")}, doNothing, ""},
		"there already":              {wish{Active: "a"}, have{Active: "a", Ready: on("a")}, doNothing, "a"},
		"ready":                      {wish{Active: "b"}, have{Active: "a", Ready: on("a", "b")}, doActivate, "b"},
		"not staged yet":             {wish{Active: "b"}, have{Active: "a", Ready: on("a")}, doNothing, "b"},
		"busy":                       {wish{Active: "b"}, have{Busy: true, Ready: on("b")}, doNothing, "b"},
		"stopped":                    {wish{Active: "b", Stopped: true}, have{Active: "a", Ready: on("b")}, doNothing, "b"},
		"stopped, way back":          {wish{Active: "b", Stopped: true, WayBack: true}, have{Active: "a", Ready: on("b")}, doActivate, "b"},
		"failed before":              {wish{Active: "b", Retry: 1}, have{Active: "a", Last: failed, Ready: on("b")}, doNothing, "b"},
		"asked again":                {wish{Active: "b", Retry: 2}, have{Active: "a", Last: failed, Ready: on("b")}, doActivate, "b"},
		"failed while active, again": {wish{Active: "b", Retry: 2}, have{Active: "b", Last: failed, Ready: on("b")}, doActivate, "b"},
		"drained":                    {wish{Active: "b", Drained: true}, have{Active: "a", Ready: on("b")}, doHalt, "b"},
		"drained and halted":         {wish{Active: "b", Drained: true}, have{Active: "a", Stopped: true, Ready: on("b")}, doNothing, "b"},
		"drained, nothing active":    {wish{Active: "b", Drained: true}, have{Ready: on("b")}, doNothing, "b"},
		"drain is over":              {wish{Active: "a"}, have{Active: "a", Stopped: true, Ready: on("a")}, doUnhalt, "a"},
		"pin holds":                  {wish{Active: "b"}, have{Active: "a", Pin: pin, Ready: on("a", "b")}, doNothing, "a"},
		"pin not performed yet":      {wish{Active: "b"}, have{Active: "b", Pin: pin, Ready: on("a", "b")}, doActivate, "a"},
		"pin in a stop":              {wish{Active: "b", Stopped: true}, have{Active: "b", Pin: pin, Ready: on("a", "b")}, doActivate, "a"},
		"another wish ends the pin":  {wish{Active: "c"}, have{Active: "a", Pin: pin, Ready: on("a", "c")}, doUnpin, "c"},
		"agreement ends the pin":     {wish{Active: "a"}, have{Active: "a", Pin: pin, Ready: on("a")}, doUnpin, "a"},
	}
	for name, c := range cases {
		got, req := decide(c.w, c.h)
		if got != c.want || req.Release != c.rel {
			t.Errorf("%s: %v of %q, want %v of %q", name, got, req.Release, c.want, c.rel)
		}
	}
}

// TestStopIsSafe: whatever else holds, an emergency stop starts nothing but a way back.
func TestStopIsSafe(t *testing.T) {
	id := rapid.SampledFrom([]string{"", "a", "b", "c"})
	rapid.Check(t, func(t *rapid.T) {
		w := wish{Stopped: true, Drained: rapid.Bool().Draw(t, "drained"), Active: id.Draw(t, "want"), WayBack: rapid.Bool().Draw(t, "way back"), Retry: uint64(rapid.IntRange(0, 2).Draw(t, "retry"))}
		h := have{Busy: rapid.Bool().Draw(t, "busy"), Active: id.Draw(t, "active"), Stopped: rapid.Bool().Draw(t, "halted"), Ready: on("a", "b", "c")}
		if rapid.Bool().Draw(t, "pinned") {
			h.Pin = &install.Pin{From: id.Draw(t, "from"), To: id.Draw(t, "to")}
		}
		act, req := decide(w, h)
		if act == doActivate && !req.WayBack {
			t.Fatalf("%+v with %+v starts %+v", w, h, req)
		}
		if act != doNothing && h.Busy {
			t.Fatalf("a busy service is given more to do: %v", act)
		}
	})
}

func TestStale(t *testing.T) {
	at := func(term uint64, rev int64) *murmurv1.Order { return &murmurv1.Order{Term: term, Revision: rev} }
	for _, c := range []struct {
		order, seen *murmurv1.Order
		want        bool
	}{
		{at(1, 1), nil, false}, {at(1, 5), at(1, 5), false}, {at(1, 6), at(1, 5), false}, {at(1, 4), at(1, 5), true},
		{at(2, 1), at(1, 5), false}, {at(1, 9), at(2, 1), true}, {nil, at(1, 1), true},
	} {
		if got := stale(c.order, c.seen); got != c.want {
			t.Errorf("stale(%v, %v) = %v", c.order, c.seen, got)
		}
	}
}

func TestParseCounters(t *testing.T) {
	got, err := parseCounters(strings.NewReader(`# HELP x things
# TYPE http_requests_total counter
http_requests_total{code="200",path="/a b}"} 12 1700000000
http_requests_total{code="500"} 3
# TYPE temperature gauge
temperature 20
# TYPE latency histogram
latency_bucket{le="0.1"} 4
latency_sum 1.5
latency_count 5
# TYPE go_gc_total counter
go_gc_total 9
broken_line
`))
	if err != nil || len(got) != 5 || got[`http_requests_total{code="200",path="/a b}"}`] != 12 || got["latency_count"] != 5 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parseCounters(strings.NewReader("<html>hello</html>")); err == nil {
		t.Error("a page was taken for counters")
	}
}

func FuzzParseCounters(f *testing.F) {
	f.Add("# TYPE a counter\na{b=\"}\"} 1\n")
	f.Add("# TYPE a histogram\na_bucket{le=\"+Inf\"} NaN\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseCounters(strings.NewReader(text))
		if err == nil && (len(got) == 0 || len(got) > maxCounters) {
			t.Errorf("%d counters", len(got))
		}
		for series, v := range got {
			if !(v >= 0) {
				t.Errorf("%s is %v", series, v)
			}
		}
	})
}
