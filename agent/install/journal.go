package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/murmuration/murmuration/agent/script"
	"github.com/murmuration/murmuration/internal/durable"
)

const journalFile = "state.json"

// Phase is where a service is between two releases.
type Phase string

// The phases a journal can hold.
const (
	// Settled: Active runs, or nothing does. Nothing is under way.
	Settled Phase = ""
	// Switching: from Active to Target. Written before the first symlink moves.
	Switching Phase = "switching"
	// Reverting: Target failed, the way goes back to Active. Written before the first symlink moves back.
	Reverting Phase = "reverting"
)

// Outcome is what came of the last activation.
type Outcome string

// The outcomes.
const (
	NotTried   Outcome = ""
	InProgress Outcome = "in_progress"
	Healthy    Outcome = "healthy"
	Failed     Outcome = "failed"
	Refused    Outcome = "refused"
)

// Journal is state.json: what the host knows of one service, across restarts.
type Journal struct {
	Phase Phase `json:"phase,omitempty"`
	// Active is the release the host settled on last, Previous the one before; "" if none.
	Active   string `json:"active,omitempty"`
	Previous string `json:"previous,omitempty"`
	// Target is where Switching goes, or what Reverting comes back from. WayBack is the order's.
	Target  string `json:"target,omitempty"`
	WayBack bool   `json:"way_back,omitempty"`

	Last Attempt `json:"last"`
	// Pin holds a rollback made on the host itself against the control plane.
	Pin *Pin `json:"pin,omitempty"`
	// Stopped is set while the host is drained: nothing runs.
	Stopped bool `json:"stopped,omitempty"`
	// Since is when Active became what it is.
	Since time.Time `json:"since,omitzero"`
}

// Attempt is the last activation that was tried.
type Attempt struct {
	Release string          `json:"release,omitempty"`
	Retry   uint64          `json:"retry,omitempty"` // the order's retry number
	Outcome Outcome         `json:"outcome,omitempty"`
	Error   string          `json:"error,omitempty"`
	Scripts []script.Result `json:"scripts,omitempty"`
}

// Pin says that somebody on the host went back by hand.
type Pin struct {
	From   string    `json:"from"` // what the control plane wants and shall not get
	To     string    `json:"to"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// ErrDamaged is wrapped when state.json cannot be read. The symlinks then are what is known.
var ErrDamaged = errors.New("state.json is damaged")

// ReadJournal returns the journal; a missing one is the zero Journal.
func (d *Dir) ReadJournal() (Journal, error) {
	var j Journal
	b, err := d.root.ReadFile(journalFile)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return j, fmt.Errorf("read the journal of %s: %w", d.service, err)
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return Journal{}, fmt.Errorf("journal of %s: %w: %w", d.service, ErrDamaged, err)
	}
	return j, nil
}

// WriteJournal stores the journal durably.
func (d *Dir) WriteJournal(j Journal) error {
	b, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("write the journal of %s: %w", d.service, err)
	}
	d.step("before journal " + string(j.Phase))
	if err := durable.WriteFile(d.root, journalFile, b, 0o600); err != nil {
		return fmt.Errorf("write the journal of %s: %w", d.service, err)
	}
	d.step("after journal " + string(j.Phase))
	return nil
}

// Facts are what the disk says.
type Facts struct {
	Current, Previous string
	// Has reports whether a release is complete on disk.
	Has func(id string) bool
}

// Facts reads them.
func (d *Dir) Facts() Facts {
	cur, prev := d.Links()
	return Facts{Current: cur, Previous: prev, Has: d.Has}
}

// Action is what recovery asks for.
type Action string

// The actions.
const (
	// Keep: the links already say what shall run.
	Keep Action = "keep"
	// Resume: the switch to Recovery.Target is done; go on with starting and checking it.
	Resume Action = "resume"
	// GoBack: settle on Recovery.Current, and record that Target failed.
	GoBack Action = "go_back"
)

// Recovery is how to make a folder whole after a crash: set the links, then run Current.
type Recovery struct {
	Action            Action
	Current, Previous string
	// Target is the release that was being activated, "" with Keep.
	Target string
	// Reason is for the log.
	Reason string
}

// Recover decides, from the journal and the disk alone, which one release a host is on. It never names a
// release that is not complete on disk, as long as one is. Activating Target again, when that is still wanted,
// is for the normal course of things.
func Recover(j Journal, f Facts) Recovery {
	switch j.Phase {
	case Switching:
		if f.Current == j.Target && f.Has(j.Target) {
			return Recovery{Action: Resume, Current: j.Target, Previous: j.Active, Target: j.Target, Reason: "killed after the switch: going on with it"}
		}
		return settle(j, f, Keep, "killed before the switch: the old release stays")
	case Reverting:
		return settle(j, f, GoBack, "killed on the way back: going on with it")
	}
	if f.Current == j.Active {
		return settle(j, f, Keep, "")
	}
	return settle(j, f, Keep, "current does not name the release the journal settled on")
}

// settle names the release the journal has as active or, when that is not on disk, the best that is.
func settle(j Journal, f Facts, a Action, reason string) Recovery {
	r := Recovery{Action: a, Current: j.Active, Previous: j.Previous, Reason: reason}
	if a == GoBack {
		r.Target = j.Target
	}
	if r.Current != "" && !f.Has(r.Current) {
		for _, id := range []string{f.Current, j.Previous, f.Previous} {
			if id != "" && f.Has(id) {
				return Recovery{Action: a, Current: id, Target: r.Target, Reason: "release " + j.Active + " is gone from the disk: " + id + " is still there"}
			}
		}
		r.Current, r.Reason = "", "release "+j.Active+" is gone from the disk, and no other is left"
	}
	if r.Current == "" && j.Active == "" && j.Phase == Settled && f.Current != "" && f.Has(f.Current) {
		// A journal lost or damaged: the links are what is known.
		r.Current, r.Previous, r.Reason = f.Current, f.Previous, "the journal knows of no release: believing the links"
	}
	if r.Previous != "" && !f.Has(r.Previous) {
		r.Previous = ""
	}
	return r
}
