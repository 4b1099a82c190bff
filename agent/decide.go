package agent

import (
	"fmt"

	"github.com/murmuration/murmuration/agent/install"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

// wish is what the control plane wants of one service, as far as it concerns what runs.
type wish struct {
	Stopped, Drained bool
	Active           string // "" leaves what is there
	WayBack          bool
	Retry            uint64
}

// have is what the host has of it.
type have struct {
	Busy    bool
	Active  string
	Stopped bool // by a drain
	Last    install.Attempt
	Pin     *install.Pin
	Ready   func(id string) bool
}

// verb is what to do next about a service.
type verb int

const (
	doNothing verb = iota
	doActivate
	doHalt
	doUnhalt
	doUnpin
)

// decide says the one next thing to do about a service. It is level-triggered: it is asked again whenever
// anything changed, and once what is there is what is wanted it says nothing.
func decide(w wish, h have) (verb, request) {
	req := request{Release: w.Active, Retry: w.Retry, WayBack: w.WayBack}
	switch {
	case h.Busy:
		return doNothing, req
	case w.Drained:
		if !h.Stopped && h.Active != "" {
			return doHalt, req
		}
		return doNothing, req
	case h.Stopped:
		return doUnhalt, req
	case h.Pin != nil && w.Active != "" && w.Active != h.Pin.From:
		return doUnpin, req // the control plane changed its mind: it is obeyed again
	case h.Pin != nil:
		req = request{Release: h.Pin.To, WayBack: true}
	}
	failed := h.Last.Outcome == install.Failed && h.Last.Release == req.Release
	switch {
	case req.Release == "" || !h.Ready(req.Release):
		return doNothing, req
	case failed && h.Last.Retry == req.Retry:
		return doNothing, req // not again until the order asks for it
	case h.Active == req.Release && !failed:
		return doNothing, req
	case w.Stopped && !req.WayBack:
		return doNothing, req
	}
	return doActivate, req
}

// overtaken says why an activation under way should be called off, nil to let it go on. An emergency stop calls it
// off only while nothing has changed yet; what wraps errOvertaken also ends the wait for a release's health.
func overtaken(w wish, running request) error {
	switch {
	case running.WayBack:
		return nil
	case w.Active != "" && w.Active != running.Release:
		return fmt.Errorf("%w: a newer order wants release %s", errOvertaken, w.Active)
	case w.Drained:
		return fmt.Errorf("%w: the host is being drained", errOvertaken)
	case w.Stopped:
		return errStopped
	}
	return nil
}

// stale reports whether an order is older than one already obeyed: a lower term is a leader that was replaced.
func stale(order, seen *murmurv1.Order) bool {
	if order.GetTerm() != seen.GetTerm() {
		return order.GetTerm() < seen.GetTerm()
	}
	return order.GetRevision() < seen.GetRevision()
}
