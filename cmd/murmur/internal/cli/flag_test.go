package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/client"
	"github.com/murmuration/murmuration/internal/wire"
	pb "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"
)

// fakeFlags is a FlagService with one flag. It compares versions as the real one does, and notes every change made.
type fakeFlags struct {
	murmurv1connect.FlagServiceClient // what is not faked panics
	flag                              *pb.Flag
	done                              []string
}

func newFakeFlags(d int32) *fakeFlags {
	f := feature.Flag{Key: "search.v2", Type: feature.Boolean, On: "on", Off: "off", Version: 4,
		Variants: []feature.Variant{{Name: "on", Value: []byte("true")}, {Name: "off", Value: []byte("false")}}}
	m := wire.Flag(f)
	m.Dial, m.DialNow, m.UpdatedBy = d, d, "ann"
	return &fakeFlags{flag: m}
}

func (f *fakeFlags) GetFlag(_ context.Context, req *connect.Request[pb.GetFlagRequest]) (*connect.Response[pb.GetFlagResponse], error) {
	if req.Msg.Key != f.flag.Key {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("there is no such flag"))
	}
	return connect.NewResponse(&pb.GetFlagResponse{Flag: f.flag}), nil
}

func (f *fakeFlags) TurnFlag(_ context.Context, req *connect.Request[pb.TurnFlagRequest]) (*connect.Response[pb.TurnFlagResponse], error) {
	f.done = append(f.done, "turn")
	before := f.flag.Dial
	f.flag.Dial, f.flag.DialNow = req.Msg.Dial, req.Msg.Dial
	return connect.NewResponse(&pb.TurnFlagResponse{Flag: f.flag, Before: before}), nil
}

func (f *fakeFlags) PutFlag(_ context.Context, req *connect.Request[pb.PutFlagRequest]) (*connect.Response[pb.PutFlagResponse], error) {
	m := req.Msg
	exists := m.Flag.Key == f.flag.Key
	change := []*pb.FlagFieldChange{{Path: "dial", Before: "0", After: "1"}}
	if exists && m.Flag.Version != f.flag.Version || !exists && m.Flag.Version != 0 {
		err := connect.NewError(connect.CodeAborted, errors.New("someone else changed it"))
		detail, _ := connect.NewErrorDetail(&pb.FlagConflict{Current: f.flag, Changes: change})
		err.AddDetail(detail)
		return nil, err
	}
	if !m.DryRun {
		f.done = append(f.done, "put "+m.Flag.Key)
		f.flag = m.Flag
	}
	return connect.NewResponse(&pb.PutFlagResponse{Flag: m.Flag, Changes: change}), nil
}

func (f *fakeFlags) KillFlags(_ context.Context, req *connect.Request[pb.KillFlagsRequest]) (*connect.Response[pb.KillFlagsResponse], error) {
	f.done = append(f.done, "kill "+req.Msg.Key+req.Msg.Tag)
	return connect.NewResponse(&pb.KillFlagsResponse{Keys: []string{"search.v2"}, Revision: 812, Clients: 37, Confirmed: 36}), nil
}

// flagCommand runs `murmur flag args...` without a terminal.
func flagCommand(t *testing.T, f *fakeFlags, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{Env: Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}, api: &client.Client{Flags: f}}
	cmd := a.flagCmd()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err = cmd.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

func TestTurnAsksOnlyUpwards(t *testing.T) {
	for _, tc := range []struct {
		args []string
		done bool
	}{
		{[]string{"turn", "search.v2", "100"}, true},
		{[]string{"turn", "search.v2", "0"}, true},
		{[]string{"turn", "search.v2", "2.5%"}, true}, // where it is
		{[]string{"turn", "search.v2", "251"}, false},
		{[]string{"turn", "search.v2", "251", "--yes"}, true},
		{[]string{"turn", "search.v2", "100", "--dry-run"}, false},
		{[]string{"turn", "search.v2", "10001"}, false},
		{[]string{"turn", "search.v2", "--yes", "half"}, false},
	} {
		f := newFakeFlags(250)
		_, _, err := flagCommand(t, f, tc.args...)
		if got := len(f.done) == 1; got != tc.done {
			t.Errorf("%v: done %v, %v", tc.args, f.done, err)
		}
	}
}

func TestKillNeverAsks(t *testing.T) {
	for _, args := range [][]string{{"kill", "search.v2"}, {"kill", "--tag", "search", "--reason", "it burns"}} {
		f := newFakeFlags(250)
		out, _, err := flagCommand(t, f, args...)
		if err != nil || len(f.done) != 1 || !strings.Contains(out, "36 of 37 connected clients have confirmed; the others") {
			t.Errorf("%v: %v, %v\n%s", args, f.done, err, out)
		}
	}
	for _, args := range [][]string{{"kill"}, {"kill", "search.v2", "--tag", "search"}} {
		f := newFakeFlags(250)
		if _, _, err := flagCommand(t, f, args...); !errors.Is(err, ErrUsage) || f.done != nil {
			t.Errorf("%v: %v, %v", args, f.done, err)
		}
	}
}

func TestSetShowsAndKeepsToTheVersionSeen(t *testing.T) {
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "flag.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	def := `{"key":"search.v2","type":"boolean","on":"on","off":"off","variants":[{"name":"on","value":true},{"name":"off","value":false}]`
	for name, tc := range map[string]struct {
		text string
		yes  bool
		want []string
		says string // in the output or error
	}{
		"nobody to ask":  {def + "}", false, nil, "~ dial: 0 -> 1"},
		"no version":     {def + "}", true, []string{"put search.v2"}, "~ dial: 0 -> 1"},
		"version seen":   {def + `,"version":4}`, true, []string{"put search.v2"}, "search.v2 is at version 4"},
		"version before": {def + `,"version":3}`, true, nil, "changed by ann"},
		"typing mistake": {def + ",\n\n\"dail\":5}", true, nil, `line 3: json: unknown field "dail"`},
		"two values":     {def + "} {}", true, nil, "more than one JSON value"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeFlags(0)
			args := []string{"set", "-f", write(tc.text)}
			if tc.yes {
				args = append(args, "-y")
			}
			out, errs, err := flagCommand(t, f, args...)
			if diff := cmp.Diff(tc.want, f.done); diff != "" {
				t.Errorf("done (-want +got):\n%s%v", diff, err)
			}
			all := out + errs
			if err != nil {
				all += err.Error()
			}
			if !strings.Contains(all, tc.says) {
				t.Errorf("says nothing of %q:\n%s", tc.says, all)
			}
		})
	}
}

func TestModes(t *testing.T) {
	f := newFakeFlags(0)
	if _, _, err := flagCommand(t, f, "mode", "shop", "static"); err != nil {
		t.Fatal(err)
	}
	if f.flag.Key != "shop" || f.flag.On != "static" || f.flag.Off != "normal" || f.flag.Dial != 10000 || f.flag.Type != "mode" {
		t.Errorf("stored %v", f.flag)
	}
	f.flag.Version = 1
	if _, _, err := flagCommand(t, f, "mode", "shop", "normal"); err != nil || f.flag.Dial != 0 {
		t.Errorf("back to normal: %v, %v", f.flag, err)
	}
	f.flag.Killed = &pb.FlagKill{By: "ann"}
	if _, _, err := flagCommand(t, f, "mode", "shop", "static"); err == nil || !strings.Contains(err.Error(), "restore") {
		t.Errorf("a killed mode was set: %v", err)
	}
	if _, _, err := flagCommand(t, newFakeFlags(0), "mode", "search.v2", "static"); !errors.Is(err, ErrUsage) {
		t.Errorf("a boolean flag was set to a mode: %v", err)
	}
}

func TestAttributes(t *testing.T) {
	got, err := attributesJSON([]string{"plan=free", "age=60", `zip="01234"`, "eu=true", "empty=", "eq=a=b"})
	if want := `{"age":60,"empty":"","eq":"a=b","eu":true,"plan":"free","zip":"01234"}`; got != want || err != nil {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	for _, bad := range []string{"plan", "=x", ""} {
		if _, err := attributesJSON([]string{bad}); !errors.Is(err, ErrUsage) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestNothingDrivesTheTerminal(t *testing.T) {
	f := newFakeFlags(250)
	f.flag.Owner, f.flag.UpdatedBy, f.flag.Tags = "\x1b[31mred", "a\nb", []string{"t\x07"}
	f.flag.Variants[0].ValueJson = "\"\x1b]0;title\""
	out, _, err := flagCommand(t, f, "show", "search.v2")
	if err != nil || strings.ContainsAny(out, "\x1b\x07") {
		t.Errorf("%v: %q", err, out)
	}
}
