package wire

import (
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/fleet"
	"github.com/murmuration/murmuration/internal/record"
)

// Host converts what is stored of a host; what only its agent knows is left for the caller to add.
func Host(h record.Host) *murmurv1.Host {
	return &murmurv1.Host{
		Id: h.ID, Name: h.Name, Labels: maps.Clone(h.Labels), Cordoned: h.Cordoned, Drained: h.Drained,
		JoinedAt: Time(h.JoinedAt), LastSeen: Time(h.LastSeen), AgentVersion: h.Version,
	}
}

// FleetHost is the stored host as the domain sees it.
func FleetHost(h record.Host) fleet.Host {
	return fleet.Host{
		ID: h.ID, Name: h.Name, Labels: h.Labels, Cordoned: h.Cordoned, Drained: h.Drained, JoinedAt: h.JoinedAt,
	}
}

// Bounds of what an agent may say about itself. Text beyond them is cut, entries beyond them are dropped: an
// agent that says too much is still heard.
const (
	MaxText          = 2 << 10   // a message in words, bytes
	MaxScriptOutput  = 64 << 10  // one script's output, bytes
	MaxScriptsOutput = 256 << 10 // all scripts of one attempt, bytes
	maxName          = 256
	maxStaged        = 64
	maxScripts       = 64
	maxDrifted       = 20
	maxCounters      = 64
)

// Report bounds and cleans a service report in place: valid UTF-8, no field over its bound. It is an error
// when the report names no service.
func Report(r *murmurv1.ServiceReport) error {
	if r.GetStatus().GetService() == "" || len(r.Status.Service) > maxName {
		return fmt.Errorf("service report names no service, or one over %d bytes", maxName)
	}
	s := r.Status
	s.Active, s.Previous, s.State = Text(s.Active, maxName), Text(s.Previous, maxName), Text(s.State, maxName)
	s.Detail = Text(s.Detail, MaxText)
	s.Staged = cleanAll(s.Staged, maxStaged, maxName)
	s.Drifted = cleanAll(s.Drifted, maxDrifted, 1024)
	r.Attempted, r.Error = Text(r.Attempted, maxName), Text(r.Error, MaxText)
	r.Staged = r.Staged[:min(len(r.Staged), maxStaged)]
	for _, st := range r.Staged {
		if st != nil {
			st.ReleaseId, st.Error = Text(st.ReleaseId, maxName), Text(st.Error, MaxText)
		}
	}
	boundScripts(r)
	return nil
}

func boundScripts(r *murmurv1.ServiceReport) {
	r.Scripts = r.Scripts[:min(len(r.Scripts), maxScripts)]
	left := MaxScriptsOutput
	for _, o := range r.Scripts {
		if o == nil {
			continue
		}
		o.Phase, o.Name, o.Error = Text(o.Phase, maxName), Text(o.Name, maxName), Text(o.Error, MaxText)
		if limit := min(left, MaxScriptOutput); len(o.Output) > limit {
			o.Output, o.Truncated = o.Output[:limit:limit], true
		}
		left -= len(o.Output)
	}
}

// Counters reports whether a counter report is within bounds.
func Counters(c *murmurv1.CounterReport) bool {
	return c.GetService() != "" && len(c.Service) <= maxName && len(c.ReleaseId) <= maxName &&
		len(c.Counters) <= maxCounters
}

// Progress reports whether a stage's progress makes sense.
func Progress(p *murmurv1.StageProgress) bool {
	return p.GetReleaseId() != "" && len(p.ReleaseId) <= maxName && len(p.Phase) <= maxName &&
		p.BytesDone >= 0 && p.BytesTotal >= 0 && p.FromPeers >= 0 && p.FromSeeder >= 0 && p.FromDisk >= 0 && p.Fallback >= 0
}

// Text makes s valid UTF-8 of at most limit bytes.
func Text(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
	}
	return strings.ToValidUTF8(s, "?")
}

func cleanAll(list []string, most, limit int) []string {
	list = list[:min(len(list), most)]
	for i := range list {
		list[i] = Text(list[i], limit)
	}
	return list
}

// StoredScripts converts a report's script output for storing.
func StoredScripts(r *murmurv1.ServiceReport, at time.Time) record.Scripts {
	out := record.Scripts{Release: r.GetAttempted(), At: at}
	for _, o := range r.GetScripts() {
		out.Outputs = append(out.Outputs, record.Script{
			Phase: o.GetPhase(), Name: o.GetName(), ExitCode: o.GetExitCode(), Output: o.GetOutput(),
			Truncated: o.GetTruncated(), Took: o.GetTook().AsDuration(), Error: o.GetError(),
		})
	}
	return out
}
