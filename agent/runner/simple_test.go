package runner

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"github.com/murmuration/murmuration/release"
)

// fakeBus is a systemd that remembers what it was asked.
type fakeBus struct {
	jobs   []string
	result string
	active string
}

func (b *fakeBus) RestartUnitContext(_ context.Context, name, mode string, ch chan<- string) (int, error) {
	b.jobs, b.active = append(b.jobs, "restart "+name+" "+mode), "active"
	ch <- b.result
	return 1, nil
}

func (b *fakeBus) StopUnitContext(_ context.Context, name, mode string, ch chan<- string) (int, error) {
	b.jobs, b.active = append(b.jobs, "stop "+name+" "+mode), "inactive"
	ch <- b.result
	return 1, nil
}

func (b *fakeBus) GetUnitPropertyContext(context.Context, string, string) (*sd.Property, error) {
	return &sd.Property{Name: "ActiveState", Value: dbus.MakeVariant(b.active)}, nil
}

func (b *fakeBus) Close() {}

func unitSpec(rel, unit string) Spec {
	return Spec{Service: "shop", Release: rel, Run: release.Run{Kind: release.RunSystemd, Unit: unit}}
}

func TestSystemdRestartsTheUnit(t *testing.T) {
	bus := &fakeBus{result: "done"}
	s := NewSystemd(func(context.Context) (Bus, error) { return bus, nil })
	for _, sp := range []Spec{unitSpec("r1", "shop.service"), unitSpec("r2", "shop.service"), unitSpec("r3", "store.service")} {
		if err := s.Start(t.Context(), sp); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"restart shop.service replace", "restart shop.service replace", "stop shop.service replace", "restart store.service replace"}
	if !slices.Equal(bus.jobs, want) {
		t.Errorf("jobs %q, want %q", bus.jobs, want)
	}
	if err := s.Stop(t.Context()); err != nil || s.Status().Running {
		t.Errorf("stop: %v, status %+v", err, s.Status())
	}
	bus.result = "failed"
	if err := s.Start(t.Context(), unitSpec("r4", "store.service")); !errors.Is(err, ErrStart) || !strings.Contains(err.Error(), "journalctl -u store.service") {
		t.Errorf("a failed job: %v", err)
	}
}

func TestSystemdAdoptsAnActiveUnit(t *testing.T) {
	bus := &fakeBus{active: "active"}
	s := NewSystemd(func(context.Context) (Bus, error) { return bus, nil })
	if ok, err := s.Adopt(t.Context(), unitSpec("r1", "shop.service")); !ok || err != nil {
		t.Errorf("Adopt = %v, %v", ok, err)
	}
	bus.active = "failed"
	if ok, err := s.Adopt(t.Context(), unitSpec("r1", "shop.service")); ok || err != nil {
		t.Errorf("Adopt of a failed unit = %v, %v", ok, err)
	}
	down := NewSystemd(func(context.Context) (Bus, error) { return nil, errors.New("no bus") })
	if err := down.Start(t.Context(), unitSpec("r1", "shop.service")); !errors.Is(err, ErrStart) {
		t.Errorf("without systemd: %v", err)
	}
}

func TestRealSystemdAnswers(t *testing.T) {
	bus, err := DialBus(t.Context())
	if err != nil {
		t.Skipf("no systemd on this machine: %v", err)
	}
	defer bus.Close()
	if _, err := bus.GetUnitPropertyContext(t.Context(), "multi-user.target", "ActiveState"); err != nil {
		t.Error(err)
	}
}

func TestCommands(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	mk := func(rel string, restart string) Spec {
		note := func(verb string) string { return "echo " + verb + " " + rel + " >> notes" }
		s := Spec{Service: "shop", Release: rel, Dir: dir, Env: []string{"PATH=/usr/bin:/bin"}, Run: release.Run{
			Kind: release.RunCommands, Start: note("start"), Stop: note("stop"),
		}}
		if restart != "" {
			s.Run.Restart = note(restart)
		}
		return s
	}
	c := NewCommands(root)
	if ok, err := c.Adopt(t.Context(), mk("r1", "")); ok || err != nil {
		t.Errorf("Adopt of nothing = %v, %v", ok, err)
	}
	for _, s := range []Spec{mk("r1", ""), mk("r2", ""), mk("r3", "restart")} {
		if err := c.Start(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := NewCommands(root).Adopt(t.Context(), mk("r3", "")); !ok || err != nil {
		t.Errorf("Adopt in the same boot = %v, %v", ok, err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "notes"))
	if want := "start r1\nstop r1\nstart r2\nrestart r3\nstop r3\n"; string(b) != want || err != nil {
		t.Errorf("ran %q, %v; want %q", b, err, want)
	}
	broken := mk("r4", "")
	broken.Run.Start = "echo no such database >&2; exit 3"
	if err := c.Start(t.Context(), broken); !errors.Is(err, ErrStart) || !strings.Contains(err.Error(), "no such database") {
		t.Errorf("a start command that fails: %v", err)
	}
}

func TestFilesOnlyHaveToBeThere(t *testing.T) {
	f := new(Files)
	if err := f.Start(t.Context(), Spec{Release: "r1"}); err != nil || !f.Status().Running || f.Status().Release != "r1" {
		t.Errorf("status %+v, %v", f.Status(), err)
	}
	if err := f.Stop(t.Context()); err != nil || f.Status().Running {
		t.Errorf("status %+v, %v", f.Status(), err)
	}
}
