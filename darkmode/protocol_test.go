package darkmode

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/darkmode/darkmodetest"
	"github.com/murmuration/murmuration/dial"
	"github.com/murmuration/murmuration/feature"
)

func raw(values ...string) []json.RawMessage {
	out := make([]json.RawMessage, len(values))
	for i, v := range values {
		out[i] = json.RawMessage(v)
	}
	return out
}

func hello(revision int) string {
	return fmt.Sprintf("retry: 1\n\nevent: hello\ndata: {\"stream\":\"s\",\"revision\":%d,\"heartbeat_ms\":15000}\n\n", revision)
}

func frame(event string, revision uint64, v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("event: %s\nid: %d\ndata: %s\n\n", event, revision, data)
}

func reset(revision uint64, flags ...feature.Flag) string {
	return frame("reset", revision, snapshot{Revision: revision, Flags: append([]feature.Flag{}, flags...)})
}

func delta(revision uint64, flags ...feature.Flag) string {
	return frame("delta", revision, darkmodetest.Change{Revision: revision, Flags: flags})
}

func version(f feature.Flag, v uint64) feature.Flag {
	f.Version = v
	return f
}

func killed(f feature.Flag) feature.Flag {
	f.Killed = &feature.Kill{By: "olga"}
	return f
}

// TestStreamsAsWritten plays streams word by word. Each case says which flags must be on at the end and from which
// revisions the streams were asked for.
func TestStreamsAsWritten(t *testing.T) {
	for _, tt := range []struct {
		name    string
		streams []string
		on, off []string
		asked   []string
	}{
		{"a repeated delta changes nothing", []string{hello(5) + reset(5, on("a")) + delta(6, version(off("a"), 2)) + delta(6, version(on("a"), 3))}, nil, []string{"a"}, []string{"0", "6"}},
		{"an older delta changes nothing", []string{hello(5) + reset(5, version(on("a"), 9)) + delta(4, version(off("a"), 10))}, []string{"a"}, nil, []string{"0", "5"}},
		{"an older version in a newer delta changes nothing", []string{hello(5) + reset(5, version(on("a"), 9)) + delta(6, version(off("a"), 8), on("b"))}, []string{"a", "b"}, nil, []string{"0", "6"}},
		{"a kill ahead holds against the deltas before it", []string{hello(5) + reset(5, on("a"), on("b")) +
			frame("kill", 0, darkmodetest.Change{Revision: 9, Flags: []feature.Flag{killed(version(on("a"), 4))}}) +
			delta(6, version(on("a"), 2)) + frame("delta", 7, darkmodetest.Change{Revision: 7, DroppedFlags: []string{"a", "b"}})}, nil, []string{"a", "b"}, []string{"0", "7"}},
		{"a kill that is known changes nothing", []string{hello(9) + reset(9, version(on("a"), 5)) +
			frame("kill", 0, darkmodetest.Change{Revision: 8, Flags: []feature.Flag{killed(version(on("a"), 6))}})}, []string{"a"}, nil, []string{"0", "9"}},
		{"a delta after the kill revives", []string{hello(5) + reset(5, on("a")) +
			frame("kill", 0, darkmodetest.Change{Revision: 6, Flags: []feature.Flag{killed(version(on("a"), 2))}}) +
			delta(6, killed(version(on("a"), 2))) + delta(7, version(on("a"), 3))}, []string{"a"}, nil, []string{"0", "7"}},
		{"a reset goes back", []string{hello(9) + reset(9, version(on("a"), 5)) + reset(3, version(off("a"), 2))}, nil, []string{"a"}, []string{"0", "3"}},
		{"a broken delta ends the stream and is asked for again", []string{hello(5) + reset(5, on("a")) + "event: delta\nid: 6\ndata: {\"revision\":\n\n" + delta(7, version(off("a"), 2)), hello(7) + delta(7, version(off("a"), 3))}, nil, []string{"a"}, []string{"0", "5", "7"}},
		{"a broken reset replaces nothing", []string{hello(5) + reset(5, on("a")), hello(6) + "event: reset\nid: 6\ndata: {\"error\":{}}\n\n"}, []string{"a"}, nil, []string{"0", "5", "5"}},
		{"an empty reset that is one", []string{hello(5) + reset(5, on("a")) + reset(6)}, nil, []string{"a"}, []string{"0", "6"}},
		{"a definition that does not compile leaves the last good", []string{hello(5) + reset(5, on("a")) + delta(6, feature.Flag{Key: "a", Version: 2}, on("b"))}, []string{"a", "b"}, nil, []string{"0", "6"}},
		{"a reset with such a definition too", []string{hello(5) + reset(5, on("a"), on("gone")) + reset(6, feature.Flag{Key: "a", Version: 2}, on("b"))}, []string{"a", "b"}, []string{"gone"}, []string{"0", "6"}},
		{"unknown events and fields are ignored", []string{hello(5) + reset(5, on("a")) + "event: news\ndata: {}\n\nfoo: bar\n\n: hb\n\n" + delta(6, on("b"))}, []string{"a", "b"}, nil, []string{"0", "6"}},
		{"a stream without hello is not believed", []string{reset(5, on("a"))}, nil, []string{"a"}, []string{"0", "0"}},
		{"hello that is none", []string{"event: hello\ndata: <html>\n\n" + reset(5, on("a"))}, nil, []string{"a"}, []string{"0", "0"}},
		{"a huge event", []string{hello(5) + reset(5, on("a")) + "data: " + strings.Repeat("x", 1<<17) + "\n\n"}, []string{"a"}, nil, []string{"0", "5"}},
		{"garbage", []string{"\x00\xff\xfe{}[]\n\n\n:::\n", hello(5) + reset(5, on("a"))}, []string{"a"}, nil, []string{"0", "0", "5"}},
		{"a stream cut in an event", []string{hello(5) + reset(5, on("a")) + strings.TrimSuffix(delta(6, version(off("a"), 2)), "\n")}, []string{"a"}, nil, []string{"0", "5"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := fast()
			cfg.MaxBytes = 1 << 16
			c, s := play(t, cfg, tt.streams...)
			for _, key := range tt.on {
				wantBool(t, c, key, true)
			}
			for _, key := range tt.off {
				if c.Bool(key, "u", false) {
					t.Errorf("%s is on", key)
				}
			}
			if d := cmp.Diff(tt.asked, s.asked); d != "" {
				t.Errorf("asked from: %s", d)
			}
		})
	}
}

// TestResumeFromDisk: the copy's revision is resumed from, the bootstrap's never.
func TestResumeFromDisk(t *testing.T) {
	path := t.TempDir() + "/flags"
	cfg := fast()
	cfg.CopyFile = path
	play(t, cfg, hello(5)+reset(5, on("a")))
	c, s := play(t, cfg, hello(5))
	if s.asked[0] != "5" || c.Status().Source != FromServer || !c.Bool("a", "u", false) {
		t.Errorf("asked from %v, status %+v", s.asked, c.Status())
	}
	select {
	case <-c.Ready():
	default:
		t.Error("a copy that the server confirmed is not ready")
	}
	cfg = fast()
	cfg.Bootstrap = darkmodetest.Bootstrap(on("a"))
	if _, s := play(t, cfg, hello(1)); s.asked[0] != "0" {
		t.Errorf("the bootstrap's revision was resumed from: %v", s.asked)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-1": 0, "x": 0, "99999999": maxRetryAfter, "Thu, 01 Jan 2026 00:00:30 GMT": 30 * time.Second,
		"Wed, 31 Dec 2025 00:00:30 GMT": 0, "99999999999999999999": 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// TestWaits: waits grow to their bound, are never all alike, and honour what the server asks.
func TestWaits(t *testing.T) {
	c := New(Config{})
	seen := map[time.Duration]bool{}
	for failures := range 40 {
		got := c.waitAfter(&session{}, errNoHello, failures)
		most := min(time.Second<<min(failures, 5), 30*time.Second)
		if got < most/2 || got > most {
			t.Errorf("after %d failures %v, want %v to %v", failures, got, most/2, most)
		}
		seen[got] = true
	}
	if len(seen) < 20 {
		t.Errorf("only %d different waits of 40: no jitter", len(seen))
	}
	asked := &statusError{what: "x", status: 503, wait: 20 * time.Second}
	if got := c.waitAfter(&session{}, fmt.Errorf("y: %w", asked), 9); got < 20*time.Second || got > 30*time.Second {
		t.Errorf("Retry-After: 20 gives %v", got)
	}
	if got := c.waitAfter(&session{hello: true, retry: 4 * time.Second}, nil, 0); got < 2*time.Second || got > 4*time.Second {
		t.Errorf("retry: 4000 gives %v", got)
	}
}

// TestUsage: counts by flag and variant reach the server, survive its absence, and carry no unit.
func TestUsage(t *testing.T) {
	srv := darkmodetest.New(t, on("a"), darkmodetest.Bool("half", 5000), darkmodetest.Flag("s", feature.String, dial.Full, "x", "y"))
	c, _ := start(t, fast(srv.URL))
	waitReady(t, c)
	half := c.BoolFlag("half", false)
	on, off := uint64(0), uint64(0)
	for i := range 100 {
		if half.On(fmt.Sprintf("u%d", i)) {
			on++
		} else {
			off++
		}
	}
	c.Bool("a", "u", false)
	c.Bool("s", "u", false)         // another type is counted too: the flag was read
	c.Bool("nowhere", "u", false)   // there is nothing to count
	c.Bool("half", "", false)       // no unit, no variant
	c.StringDetail("s", nil, "def") // counts once
	srv.SetBroken(true)
	c.report(t.Context())
	c.Bool("a", "u", false)
	srv.SetBroken(false)
	c.report(t.Context())
	want := []darkmodetest.UsageCount{{Flag: "a", Variant: "on", Count: 2}, {Flag: "half", Variant: "off", Count: off}, {Flag: "half", Variant: "on", Count: on}, {Flag: "s", Variant: "on", Count: 2}}
	if d := cmp.Diff(want, <-srv.Usage); d != "" {
		t.Error(d)
	}
	c.report(t.Context())
	if len(srv.Usage) != 0 {
		t.Errorf("an empty report was sent: %v", <-srv.Usage)
	}
}

// TestCountsSurviveNewVariants: counts of variants that are gone are reported, not mixed up.
func TestCountsSurviveNewVariants(t *testing.T) {
	c := New(Config{Bootstrap: darkmodetest.Bootstrap(on("a"))})
	c.Bool("a", "u", false)
	f := on("a")
	f.Variants, f.On = []feature.Variant{{Name: "zero", Value: json.RawMessage(`false`)}, {Name: "off", Value: json.RawMessage(`false`)}, {Name: "yes", Value: json.RawMessage(`true`)}}, "yes"
	c.replace(snapshot{Revision: 2, Flags: []feature.Flag{f}}, FromServer)
	c.Bool("a", "u", false)
	if d := cmp.Diff([]count{{"a", "on", 1}, {"a", "yes", 1}}, c.usage.take()); d != "" {
		t.Error(d)
	}
}

func TestBigReportsAreCut(t *testing.T) {
	srv := darkmodetest.New(t)
	c, _ := start(t, fast(srv.URL))
	for i := range reportBatch + 1 {
		c.unsent = append(c.unsent, count{fmt.Sprintf("f%d", i), "on", 1})
	}
	c.report(t.Context())
	if a, b := len(<-srv.Usage), len(<-srv.Usage); a != reportBatch || b != 1 {
		t.Errorf("reports of %d and %d counts", a, b)
	}
}

func TestSnapshotsThatGoBack(t *testing.T) {
	srv := darkmodetest.New(t, on("a"))
	c := New(fast(srv.URL))
	c.replace(snapshot{Revision: 50, Flags: []feature.Flag{on("b")}}, FromServer)
	for i := range olderPolls {
		err := c.poll(t.Context())
		if last := i == olderPolls-1; (err == nil) != last || c.Bool("a", "u", false) != last {
			t.Errorf("poll %d: %v, a is %v", i, err, c.Bool("a", "u", false))
		}
	}
	if err := c.poll(t.Context()); err != nil { // answered 304
		t.Error(err)
	}
}

func TestStatusErrorsSayWhatToDo(t *testing.T) {
	err := error(&statusError{what: "open stream", status: 401})
	if got := err.Error(); !strings.Contains(got, "401 Unauthorized") || !strings.Contains(got, "token") {
		t.Error(got)
	}
	if New(Config{}).mayPoll(&session{}, err) || !New(Config{}).mayPoll(&session{}, errNotAStream) || New(Config{}).mayPoll(&session{}, errors.New("dial")) {
		t.Error("polling is tried where it cannot help, or not where it can")
	}
}
