package runner

import (
	"context"
	"fmt"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
)

// Bus is the part of systemd's D-Bus interface that [Systemd] uses; *dbus.Conn of go-systemd has it.
type Bus interface {
	RestartUnitContext(ctx context.Context, name, mode string, ch chan<- string) (int, error)
	StopUnitContext(ctx context.Context, name, mode string, ch chan<- string) (int, error)
	GetUnitPropertyContext(ctx context.Context, unit, property string) (*sd.Property, error)
	Close()
}

// DialBus connects to the host's systemd.
func DialBus(ctx context.Context) (Bus, error) {
	c, err := sd.NewWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("reach systemd over D-Bus: %w", err)
	}
	return c, nil
}

// Systemd runs a service as a unit of the host's systemd. The unit's files refer to the service's "current"
// link, so restarting it is what makes a release run. Installing the unit is not the agent's business.
type Systemd struct {
	basic
	dial func(context.Context) (Bus, error)
}

// NewSystemd returns a runner that connects by dial for each job.
func NewSystemd(dial func(context.Context) (Bus, error)) *Systemd { return &Systemd{dial: dial} }

// jobTimeout is added to the unit's own stop time-out for a job to finish.
const jobTimeout = 90 * time.Second

// Start implements [Runner]: the unit is restarted, which starts it when it is not active.
func (s *Systemd) Start(ctx context.Context, spec Spec) error {
	if old, status := s.get(); status.Running && old.Run.Unit != spec.Run.Unit {
		if err := s.job(ctx, old, "stop"); err != nil {
			return fmt.Errorf("%w: %w", ErrStart, err)
		}
	}
	if err := s.job(ctx, spec, "restart"); err != nil {
		s.set(spec, false, err.Error())
		return fmt.Errorf("%w: %w", ErrStart, err)
	}
	s.set(spec, true, "")
	return nil
}

// Stop implements [Runner].
func (s *Systemd) Stop(ctx context.Context) error {
	spec, status := s.get()
	if !status.Running {
		return nil
	}
	s.set(spec, false, "")
	return s.job(ctx, spec, "stop")
}

// Adopt implements [Runner]: an active unit runs.
func (s *Systemd) Adopt(ctx context.Context, spec Spec) (bool, error) {
	bus, err := s.dial(ctx)
	if err != nil {
		return false, err
	}
	defer bus.Close()
	p, err := bus.GetUnitPropertyContext(ctx, spec.Run.Unit, "ActiveState")
	if err != nil {
		return false, fmt.Errorf("state of unit %s: %w", spec.Run.Unit, err)
	}
	if state, ok := p.Value.Value().(string); !ok || state != "active" {
		return false, nil
	}
	s.set(spec, true, "")
	return true, nil
}

// job queues a job for the unit and waits for its result.
func (s *Systemd) job(ctx context.Context, spec Spec, verb string) error {
	ctx, cancel := context.WithTimeout(ctx, spec.stopTimeout()+jobTimeout)
	defer cancel()
	bus, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer bus.Close()
	done := make(chan string, 1)
	queue := bus.RestartUnitContext
	if verb == "stop" {
		queue = bus.StopUnitContext
	}
	if _, err := queue(ctx, spec.Run.Unit, "replace", done); err != nil {
		return fmt.Errorf("%s unit %s: %w", verb, spec.Run.Unit, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("%s unit %s: systemd says %q; see journalctl -u %s", verb, spec.Run.Unit, result, spec.Run.Unit)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s unit %s: no result: %w", verb, spec.Run.Unit, context.Cause(ctx))
	}
}
