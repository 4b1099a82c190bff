package record

import (
	"encoding/json"
	"time"

	"github.com/murmuration/murmuration/rollout"
)

// Rollout is the stored form of a rollout, written only by the elected leader. Version 1. In a store the
// state is a compact mirror of rollout.State, so that the core's types may change without a migration.
type Rollout struct {
	State rollout.State
	// Term is the leadership that wrote this; a later leader has a higher one.
	Term uint64
	// RequestID is the caller's, so that a repeated start finds this rollout.
	RequestID  string
	CreatedAt  time.Time
	FinishedAt time.Time
	// StartRev and BackRev are store revisions: reports that answer an order from before them say nothing
	// about this rollout (StartRev) or about its way back (BackRev).
	StartRev int64
	BackRev  int64
	// Retry changes when agents shall try a failed stage or activation again.
	Retry uint64
}

// NewRollout makes the stored form of a state.
func NewRollout(s rollout.State) Rollout { return Rollout{State: s} }

// RolloutState is the state of a rollout.
func (r Rollout) RolloutState() rollout.State { return r.State }

// storedRollout is what a store holds of a [Rollout].
type storedRollout struct {
	Term       uint64       `json:"term"`
	State      rolloutState `json:"state"`
	RequestID  string       `json:"request_id,omitempty"`
	CreatedAt  time.Time    `json:"created_at,omitzero"`
	FinishedAt time.Time    `json:"finished_at,omitzero"`
	StartRev   int64        `json:"start_rev,omitempty"`
	BackRev    int64        `json:"back_rev,omitempty"`
	Retry      uint64       `json:"retry,omitempty"`
}

// MarshalJSON renders the form as it is stored.
func (r Rollout) MarshalJSON() ([]byte, error) {
	return json.Marshal(storedRollout{
		Term: r.Term, State: storeState(r.State), RequestID: r.RequestID,
		CreatedAt: r.CreatedAt.UTC(), FinishedAt: r.FinishedAt.UTC(),
		StartRev: r.StartRev, BackRev: r.BackRev, Retry: r.Retry,
	})
}

// UnmarshalJSON reads what MarshalJSON rendered. Times come back in UTC.
func (r *Rollout) UnmarshalJSON(value []byte) error {
	var s storedRollout
	if err := json.Unmarshal(value, &s); err != nil {
		return err
	}
	*r = Rollout{
		Term: s.Term, State: s.State.state(), RequestID: s.RequestID,
		CreatedAt: s.CreatedAt, FinishedAt: s.FinishedAt,
		StartRev: s.StartRev, BackRev: s.BackRev, Retry: s.Retry,
	}
	return nil
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

// KindRequest remembers which rollout a request started; id: service/digest of the request id.
const KindRequest Kind = "request"

// Request is the stored form of a start that was asked for, so that asking again starts nothing. Version 1.
type Request struct {
	Rollout string    `json:"rollout"`
	At      time.Time `json:"at"`
}

// Current is the form's version.
func (Request) Current() int { return 1 }

// Seeder is the stored form of where one seeder is, under KindFleet and "seeder/" with its id, written when it
// starts: other seeders and hosts reach it there. Version 1.
type Seeder struct {
	ID      string    `json:"id"`
	Address string    `json:"address"` // of the API, host:port
	Swarm   string    `json:"swarm"`   // of its torrent engine, host:port
	Started time.Time `json:"started"`
}

// Current is the form's version.
func (Seeder) Current() int { return 1 }

// SeederKey is where a seeder says where it is.
func SeederKey(id string) Key { return Key{Kind: KindFleet, ID: "seeder/" + id} }
