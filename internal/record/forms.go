package record

import (
	"encoding/json"
	"fmt"
	"time"
)

// Form is a stored struct: it can say which version of its form it is. Decoders accept every version from 1
// to the current one.
type Form interface {
	// Current is the version this code writes.
	Current() int
}

// Encode renders a form for a store, stamping its version.
func Encode[T Form](form T) ([]byte, error) {
	body, err := json.Marshal(form)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", form, err)
	}
	return json.Marshal(envelope{V: form.Current(), Body: body})
}

// Decode reads what [Encode] wrote, now or in an earlier version. A version newer than this code knows is
// an error, never a guess.
func Decode[T Form](value []byte) (T, error) {
	var form T
	var e envelope
	if err := json.Unmarshal(value, &e); err != nil {
		return form, fmt.Errorf("decode %T: %w", form, err)
	}
	if e.V < 1 || e.V > form.Current() {
		return form, fmt.Errorf("decode %T: stored as version %d, this program knows 1 to %d: upgrade it", form, e.V, form.Current())
	}
	if err := json.Unmarshal(e.Body, &form); err != nil {
		return form, fmt.Errorf("decode %T: %w", form, err)
	}
	return form, nil
}

type envelope struct {
	V    int             `json:"v"`
	Body json.RawMessage `json:"body"`
}

// Service is the stored form of a deployable service. Version 1.
type Service struct {
	Name string `json:"name"`
	// Stable is the release every matching host should run; Previous was stable before it. History holds
	// the ids that were ever stable, newest first, at most 50: what a way back may name.
	Stable   string   `json:"stable,omitempty"`
	Previous string   `json:"previous,omitempty"`
	History  []string `json:"history,omitempty"`
	Lock     *Lock    `json:"lock,omitempty"`
	// Active is the rollout that holds the service's slot, Queue those that wait, oldest first.
	Active string   `json:"active,omitempty"`
	Queue  []string `json:"queue,omitempty"`
	// Last is the newest rollout that touched a host and gave the slot back. Unless it is complete, what it
	// told its hosts stays true until the next rollout begins.
	Last string `json:"last,omitempty"`
	// Selector picks the hosts; it comes from the recipe of the newest rolled-out release.
	Selector string `json:"selector,omitempty"`
	// Applied holds the keys of the last effects applied to this record, newest first, at most 20, so that
	// an effect performed again changes nothing.
	Applied   []string  `json:"applied,omitempty"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Current is the form's version.
func (Service) Current() int { return 1 }

// Lock is part of [Service].
type Lock struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// Release is the stored form of a published release. Version 1.
type Release struct {
	// Manifest and Envelope are the exact bytes that were signed and the signature's envelope.
	Manifest []byte `json:"manifest"`
	Envelope []byte `json:"envelope"`
	// Info is the bencoded torrent info dictionary, Infohash its SHA-1 in hex.
	Info        []byte    `json:"info"`
	Infohash    string    `json:"infohash"`
	KeyID       string    `json:"key_id"`
	BuildID     string    `json:"build_id,omitempty"`
	Pinned      bool      `json:"pinned,omitempty"`
	PublishedAt time.Time `json:"published_at"`
	PublishedBy string    `json:"published_by,omitempty"`
}

// Current is the form's version.
func (Release) Current() int { return 1 }

// Build is the stored form of one build. Version 1.
type Build struct {
	ID         string    `json:"id"`
	Service    string    `json:"service,omitempty"`
	Repo       string    `json:"repo"`
	Commit     string    `json:"commit"`
	Ref        string    `json:"ref,omitempty"`
	State      string    `json:"state"` // queued, running, published, failed, cancelled
	ReleaseID  string    `json:"release_id,omitempty"`
	Error      string    `json:"error,omitempty"`
	Builder    string    `json:"builder,omitempty"`
	QueuedAt   time.Time `json:"queued_at,omitzero"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

// Current is the form's version.
func (Build) Current() int { return 1 }

// Host is the stored form of a fleet host. Version 1. What changes by the second (progress, disk) is never
// stored: agents say it again when they attach.
type Host struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Labels   map[string]string `json:"labels,omitempty"`
	Cordoned bool              `json:"cordoned,omitempty"`
	Drained  bool              `json:"drained,omitempty"`
	// Declared hosts were imported and have not joined yet.
	Declared bool      `json:"declared,omitempty"`
	JoinedAt time.Time `json:"joined_at,omitzero"`
	// LastSeen is written when a session ends, so that it survives a restart of the control plane.
	LastSeen time.Time `json:"last_seen,omitzero"`
	Version  string    `json:"version,omitempty"`
	// AnnounceKey is the host's credential for the tracker.
	AnnounceKey string `json:"announce_key,omitempty"`
}

// Current is the form's version.
func (Host) Current() int { return 1 }

// Stop is the stored form of the emergency stop, under KindFleet "stop". Version 1.
type Stop struct {
	Stopped bool      `json:"stopped"`
	By      string    `json:"by,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Since   time.Time `json:"since,omitzero"`
}

// Current is the form's version.
func (Stop) Current() int { return 1 }

// StopKey is where the emergency stop is stored.
var StopKey = Key{Kind: KindFleet, ID: "stop"}
