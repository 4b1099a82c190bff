package record

import (
	"time"

	"github.com/murmuration/murmuration/rollout"
)

// Rollout is the stored form of a rollout, written only by the elected leader. Version 1. It embeds the
// state of the pure core, whose own fields are only ever added to and whose zero values keep their meaning.
type Rollout struct {
	State rollout.State `json:"state"`
	// Term is the leadership that wrote this; a later leader has a higher one.
	Term uint64 `json:"term"`
	// RequestID is the caller's, so that a repeated start finds this rollout.
	RequestID  string    `json:"request_id,omitempty"`
	CreatedAt  time.Time `json:"created_at"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	// StartRev and BackRev are store revisions: reports that answer an order from before them say nothing
	// about this rollout (StartRev) or about its way back (BackRev).
	StartRev int64 `json:"start_rev,omitempty"`
	BackRev  int64 `json:"back_rev,omitempty"`
	// Retry changes when agents shall try a failed stage or activation again.
	Retry uint64 `json:"retry,omitempty"`
}

// Current is the form's version.
func (Rollout) Current() int { return 1 }

// Leader is the stored form of the newest leadership of the rollout loop, under KindFleet "leader". Its Term
// goes into every order, so that agents refuse what an older leader decided. Version 1.
type Leader struct {
	Term    uint64    `json:"term"`
	Seeder  string    `json:"seeder"`
	Address string    `json:"address"`
	Since   time.Time `json:"since"`
}

// Current is the form's version.
func (Leader) Current() int { return 1 }

// LeaderKey is where the newest leadership is stored.
var LeaderKey = Key{Kind: KindFleet, ID: "leader"}

// KindScripts holds what check scripts printed in a host's last failed attempt; id: service/host id.
const KindScripts Kind = "scripts"

// Scripts is the stored form of the script output of one failed attempt. Version 1. Writers bound it to
// 256 KiB of output.
type Scripts struct {
	Release string    `json:"release"`
	At      time.Time `json:"at"`
	Outputs []Script  `json:"outputs,omitempty"`
}

// Current is the form's version.
func (Scripts) Current() int { return 1 }

// Script is part of [Scripts].
type Script struct {
	Phase     string        `json:"phase"`
	Name      string        `json:"name"`
	ExitCode  int32         `json:"exit_code,omitempty"`
	Output    []byte        `json:"output,omitempty"`
	Truncated bool          `json:"truncated,omitempty"`
	Took      time.Duration `json:"took,omitempty"`
	Error     string        `json:"error,omitempty"`
}
