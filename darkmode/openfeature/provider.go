// Package openfeature is an OpenFeature provider over a darkmode client: every evaluation is local, in memory.
//
//	flags := darkmode.New(cfg)
//	flags.Start(ctx)
//	err := openfeature.SetProviderAndWait(provider.New(flags))
//
// # Mapping
//
// targetingKey is the unit; all other entries of the context are attributes. A kill answers the flag's off value with
// reason STATIC, never DISABLED. Flag metadata holds version, revision, source and killed. An integer read of a number
// written with a fraction is a TYPE_MISMATCH; a float read takes any number. Object values are shared: do not change them.
//
// # Events and state
//
// Init never waits for the network: with a state from disk, bootstrap or server the provider is ready at once;
// without any, it waits for the first until its context ends (with [Provider.Init], 5 s) and then fails with
// PROVIDER_NOT_READY. The client goes on trying, and READY follows when a state comes. After that: STALE when no
// server was heard of for a while, READY when one is back, CONFIGURATION_CHANGED with the flags concerned, and ERROR when
// the client has trouble while there is no state at all. The client belongs to the caller: Shutdown does not close it.
//
// The SDK costs about a microsecond for each evaluation. Where that counts, read the client's handles.
package openfeature

import (
	"context"
	"slices"
	"sync"
	"time"

	of "github.com/open-feature/go-sdk/openfeature"

	"github.com/murmuration/murmuration/darkmode"
	"github.com/murmuration/murmuration/feature"
)

// Name is the provider's name in metadata and events.
const Name = "murmuration-darkmode"

// initTimeout is how long Init waits for a first state when nobody says how long.
const initTimeout = 5 * time.Second

// eventBuffer is how many events wait for the SDK. The changes of a burst beyond that are merged and told with the
// next event of any kind.
const eventBuffer = 64

var (
	_ of.FeatureProvider          = (*Provider)(nil)
	_ of.ContextAwareStateHandler = (*Provider)(nil)
	_ of.EventHandler             = (*Provider)(nil)
)

// Provider serves a client's flags to OpenFeature. Make it with [New]; it is safe for concurrent use.
type Provider struct {
	client *darkmode.Client
	events chan of.Event

	mu      sync.Mutex
	stop    func()
	ready   bool     // the SDK was told READY and not STALE since, or Init succeeded
	changed []string // flags of changes that found no room among the events
}

// New returns a provider over a client, which the caller starts and closes.
func New(c *darkmode.Client) *Provider {
	return &Provider{client: c, events: make(chan of.Event, eventBuffer)}
}

// Metadata names the provider.
func (p *Provider) Metadata() of.Metadata { return of.Metadata{Name: Name} }

// Hooks are none.
func (p *Provider) Hooks() []of.Hook { return nil }

// EventChannel delivers events to the SDK.
func (p *Provider) EventChannel() <-chan of.Event { return p.events }

// Init is InitWithContext with 5 s.
func (p *Provider) Init(ec of.EvaluationContext) error {
	ctx, cancel := context.WithTimeout(context.Background(), initTimeout)
	defer cancel()
	return p.InitWithContext(ctx, ec)
}

// InitWithContext follows the client and waits until there is a state from anywhere.
func (p *Provider) InitWithContext(ctx context.Context, _ of.EvaluationContext) error {
	p.mu.Lock()
	if p.stop == nil {
		p.stop = p.client.Subscribe(p.forward)
	}
	p.mu.Unlock()
	if p.client.Status().Source == darkmode.FromDefaults {
		select {
		case <-p.client.Ready():
		case <-ctx.Done():
			return &of.ProviderInitError{ErrorCode: of.ProviderNotReadyCode, Message: "no state of the flags from server, disk or bootstrap yet"}
		}
	}
	p.mu.Lock()
	p.ready = true
	p.mu.Unlock()
	return nil
}

// Shutdown stops following the client.
func (p *Provider) Shutdown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
	p.ready = false
}

// ShutdownWithContext is Shutdown, which does not block.
func (p *Provider) ShutdownWithContext(context.Context) error {
	p.Shutdown()
	return nil
}

// forward turns a client's event into the SDK's.
func (p *Provider) forward(e darkmode.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop == nil {
		return
	}
	if e.Kind == darkmode.FlagsChanged {
		p.changed = append(p.changed, e.Keys...)
		slices.Sort(p.changed)
		p.changed = slices.Compact(p.changed)
	}
	if len(p.changed) > 0 && p.emit(of.ProviderConfigChange, of.ProviderEventDetails{FlagChanges: p.changed}) {
		p.changed = nil
	}
	switch e.Kind {
	case darkmode.Fresh:
		if !p.ready {
			p.ready = p.emit(of.ProviderReady, of.ProviderEventDetails{Message: "the flags are those of the server"})
		}
	case darkmode.Stale:
		p.ready = !p.emit(of.ProviderStale, of.ProviderEventDetails{Message: "no server was heard of for a while; the last good state goes on"})
	case darkmode.Trouble:
		if e.Status.Source == darkmode.FromDefaults {
			p.emit(of.ProviderError, of.ProviderEventDetails{Message: message(e.Status), ErrorCode: of.ProviderNotReadyCode})
		}
	}
}

func message(s darkmode.Status) string {
	if s.LastError == nil {
		return "there is no state of the flags yet"
	}
	return s.LastError.Error()
}

// emit hands an event over, or reports that there is no room. The client's goroutine never waits for the SDK.
func (p *Provider) emit(t of.EventType, d of.ProviderEventDetails) bool {
	select {
	case p.events <- of.Event{ProviderName: Name, EventType: t, ProviderEventDetails: d}:
		return true
	default:
		return false
	}
}

// BooleanEvaluation answers a boolean flag.
func (p *Provider) BooleanEvaluation(_ context.Context, flag string, def bool, fc of.FlattenedContext) of.BoolResolutionDetail {
	return resolve(p.client.BoolDetail(flag, contextOf(fc), def))
}

// StringEvaluation answers a string or mode flag.
func (p *Provider) StringEvaluation(_ context.Context, flag string, def string, fc of.FlattenedContext) of.StringResolutionDetail {
	return resolve(p.client.StringDetail(flag, contextOf(fc), def))
}

// FloatEvaluation answers a number flag.
func (p *Provider) FloatEvaluation(_ context.Context, flag string, def float64, fc of.FlattenedContext) of.FloatResolutionDetail {
	return resolve(p.client.FloatDetail(flag, contextOf(fc), def))
}

// IntEvaluation answers a number flag whose value is an integer.
func (p *Provider) IntEvaluation(_ context.Context, flag string, def int64, fc of.FlattenedContext) of.IntResolutionDetail {
	return resolve(p.client.IntDetail(flag, contextOf(fc), def))
}

// ObjectEvaluation answers an object flag.
func (p *Provider) ObjectEvaluation(_ context.Context, flag string, def any, fc of.FlattenedContext) of.InterfaceResolutionDetail {
	return resolve(p.client.ObjectDetail(flag, contextOf(fc), def))
}

// contextOf maps a context. A targetingKey that is no text counts as none.
func contextOf(fc of.FlattenedContext) *feature.Context {
	key, _ := fc[of.TargetingKey].(string)
	return &feature.Context{TargetingKey: key, Attributes: fc}
}

func resolve[T any](d darkmode.Detail[T]) of.GenericResolutionDetail[T] {
	out := of.GenericResolutionDetail[T]{Value: d.Value}
	out.Reason, out.Variant = of.Reason(d.Reason), d.Variant
	out.FlagMetadata = of.FlagMetadata{
		"version": int64(d.Version), "revision": int64(d.Revision), "source": d.Source.String(), "killed": d.Killed,
	}
	if d.Code != "" {
		out.Reason, out.ResolutionError = of.ErrorReason, errorOf(d.Code, d.Message)
	}
	return out
}

func errorOf(code feature.ErrorCode, text string) of.ResolutionError {
	switch code {
	case feature.FlagNotFound:
		return of.NewFlagNotFoundResolutionError(text)
	case feature.TargetingKeyMissing:
		return of.NewTargetingKeyMissingResolutionError(text)
	case feature.InvalidContext:
		return of.NewInvalidContextResolutionError(text)
	case feature.ParseError:
		return of.NewParseErrorResolutionError(text)
	case darkmode.TypeMismatch:
		return of.NewTypeMismatchResolutionError(text)
	case darkmode.NotReady:
		return of.NewProviderNotReadyResolutionError(text)
	}
	return of.NewGeneralResolutionError(text)
}
