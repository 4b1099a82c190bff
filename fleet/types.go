package fleet

import "time"

// Labels with a meaning of their own. A host without them is in rack "" of data centre "".
const (
	LabelRack = "rack"
	LabelDC   = "dc"
)

// Host is one machine of the fleet as the control plane knows it. Identity is the ID, which is in the
// host's certificate; a name is for people and may change.
type Host struct {
	ID     string            `json:"id"`
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	// Cordoned hosts take part in no new rollout; Drained ones also run nothing.
	Cordoned bool      `json:"cordoned,omitempty"`
	Drained  bool      `json:"drained,omitempty"`
	JoinedAt time.Time `json:"joined_at"`
}

// Rack is the host's rack label, "" if it has none.
func (h Host) Rack() string { return h.Labels[LabelRack] }

// DC is the host's data centre label, "" if it has none.
func (h Host) DC() string { return h.Labels[LabelDC] }
