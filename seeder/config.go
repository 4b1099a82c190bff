package seeder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/rollout"
)

// Config is what a [Seeder] is made of. Store, Authority, ID and Dir are needed; every other field works as
// its zero value.
type Config struct {
	Store     record.Store
	Authority *identity.Authority
	// ID names this seeder in certificates and messages, for example "seeder-1". It is unique in the fleet.
	ID string
	// Dir holds artifacts and the state of the swarm engine.
	Dir string
	// Listen is the address of the API, over TLS. Default "127.0.0.1:0".
	Listen string
	// SwarmListen is the address of the torrent engine. Default: the host of Listen, any port.
	SwarmListen string
	// Advertise is how others reach the API, as host:port. Default: the address it listens on.
	Advertise string
	// SwarmAdvertise is how peers reach the torrent engine, as host:port. Default: where it listens.
	SwarmAdvertise string
	// Names are what the server certificate is valid for besides the hosts of Listen and Advertise.
	Names []string
	// UpRate bounds what the engine sends, in bytes per second; 0 is no bound.
	UpRate int64
	// KeepReleases is how many releases of a service are kept besides those in use. Default 10.
	KeepReleases int
	// LostAfter is how long a host may be without a session before its rollout counts it as lost. Default 10 s.
	LostAfter time.Duration
	// DrainTimeout bounds the graceful stop. Default 5 s.
	DrainTimeout time.Duration
	Log          *slog.Logger

	// Gate decides whether new change may begin. Default: open, unless the fleet is stopped or the service locked.
	Gate Gate
	// Judge watches canaries; its verdicts come back by [Seeder.Verdict]. Without one, health decides.
	Judge Judge
	// Notifier tells people. Default: the log.
	Notifier Notifier
	// Counters is handed every counter report of a host. It must not block. Default: none.
	Counters func(host string, c *murmurv1.CounterReport)
	// Routes are handlers of other parts of the control plane that this server's address answers for as well, by
	// pattern of [http.ServeMux]. They authorise their requests themselves and set their own time limits.
	Routes map[string]http.Handler
}

// Gate decides whether a service may change now. It is asked within a time limit and may be asked often; an
// error counts as closed. A way back never asks.
type Gate interface {
	Decide(ctx context.Context, service string) (d rollout.GateDecision, reason string, err error)
}

// Judge compares canaries with controls. Observe begins (or, called again with the same key, goes on) watching
// one step; it must return soon.
type Judge interface {
	Observe(ctx context.Context, o Observation) error
}

// Observation is what a judge is asked to watch.
type Observation struct {
	// Key is unique for this step of this rollout.
	Key              string
	Rollout, Service string
	Release, Stable  string
	Step             int
	Canary, Control  []string // host ids
	Bake, MaxBake    time.Duration
	// Needed says that the step cannot end well without a Pass.
	Needed bool
}

// Notifier tells people what happened. It should return soon and do slow things on its own; a notice with a
// key it has seen is a repetition.
type Notifier interface {
	Tell(ctx context.Context, n Notice) error
}

// Notice is one message to people.
type Notice struct {
	Key                       string
	Service, Rollout, Release string
	Phase                     rollout.Phase
	Text                      string
}

func (c *Config) applyDefaults() error {
	switch {
	case c.Store == nil || c.Authority == nil:
		return errors.New("seeder: a store and an authority are needed")
	case c.Dir == "":
		return errors.New("seeder: a folder for artifacts is needed")
	}
	if err := (identity.Peer{Kind: identity.KindSeeder, ID: c.ID}).Valid(); err != nil {
		return fmt.Errorf("seeder: id: %w", err)
	}
	setDefault(&c.Listen, "127.0.0.1:0")
	setDefault(&c.KeepReleases, 10)
	setDefault(&c.LostAfter, 10*time.Second)
	setDefault(&c.DrainTimeout, 5*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Notifier == nil {
		c.Notifier = logNotifier{c.Log}
	}
	if c.Counters == nil {
		c.Counters = func(string, *murmurv1.CounterReport) {}
	}
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// logNotifier is the notifier of a seeder that was given none.
type logNotifier struct{ log *slog.Logger }

func (n logNotifier) Tell(_ context.Context, m Notice) error {
	n.log.Info(m.Text, "service", m.Service, "rollout", m.Rollout, "phase", m.Phase)
	return nil
}

// recordGate is the gate of a seeder that was given none: what the records say.
type recordGate struct{ view *view }

func (g recordGate) Decide(_ context.Context, service string) (rollout.GateDecision, string, error) {
	if stop, _, _, _ := g.view.fleetState(); stop.Stopped {
		return rollout.GateClosed, fmt.Sprintf("the fleet is stopped by %s: %s", stop.By, stop.Reason), nil
	}
	if svc, ok := g.view.service(service); ok && svc.rec.Lock != nil {
		return rollout.GateClosed, fmt.Sprintf("the service is locked by %s: %s", svc.rec.Lock.By, svc.rec.Lock.Reason), nil
	}
	return rollout.GateOpen, "", nil
}

// noJudge is the judge of a seeder that was given none; no step waits for it.
type noJudge struct{}

func (noJudge) Observe(context.Context, Observation) error { return nil }
