package release

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/murmuration/murmuration/dial"
)

// The defaults of a strategy.
const (
	DefaultMaxUnavailable        = "25%"
	DefaultMaxUnavailablePerRack = "50%"

	DefaultDCBake           = Duration(1 * time.Minute)
	DefaultFirstDCBake      = Duration(5 * time.Minute)
	DefaultMinHealthy       = Duration(10 * time.Second)
	DefaultHealthyDeadline  = Duration(5 * time.Minute)
	DefaultProgressDeadline = Duration(10 * time.Minute)
	DefaultStageDeadline    = Duration(10 * time.Minute)
)

// DefaultSteps returns the steps of a strategy that names none: one host for 30 s, a tenth of the fleet for
// a minute, then everyone.
func DefaultSteps() []Step {
	return []Step{
		{Hosts: 1, Bake: Duration(30 * time.Second)},
		{Dial: 1000, Bake: Duration(time.Minute)},
		{Dial: dial.Full},
	}
}

// WithDefaults returns s with every zero value that has a default filled in. A last step short of everyone is
// followed by one that is everyone. s is not changed.
func (s Strategy) WithDefaults() Strategy {
	if len(s.Steps) == 0 {
		s.Steps = DefaultSteps()
	} else if last := s.Steps[len(s.Steps)-1]; last.Dial != dial.Full {
		s.Steps = append(slices.Clone(s.Steps), Step{Dial: dial.Full})
	}
	s.MaxUnavailable = cmp.Or(s.MaxUnavailable, DefaultMaxUnavailable)
	s.MaxUnavailablePerRack = cmp.Or(s.MaxUnavailablePerRack, DefaultMaxUnavailablePerRack)
	s.DCBake = cmp.Or(s.DCBake, DefaultDCBake)
	s.FirstDCBake = cmp.Or(s.FirstDCBake, DefaultFirstDCBake)
	s.MinHealthy = cmp.Or(s.MinHealthy, DefaultMinHealthy)
	s.HealthyDeadline = cmp.Or(s.HealthyDeadline, DefaultHealthyDeadline)
	s.ProgressDeadline = cmp.Or(s.ProgressDeadline, DefaultProgressDeadline)
	s.StageDeadline = cmp.Or(s.StageDeadline, DefaultStageDeadline)
	return s
}

// Validate reports everything wrong with s as joined [FieldError] values. A zero value that has a default is
// right.
func (s Strategy) Validate() error {
	f := newFields()
	s.validate(f)
	return f.err()
}

func (s Strategy) validate(f fields) {
	validateSteps(f.at("steps"), s.Steps)
	for _, b := range []struct{ name, text string }{
		{"max_unavailable", s.MaxUnavailable}, {"max_unavailable_per_rack", s.MaxUnavailablePerRack},
	} {
		if b.text != "" && !isBudget(b.text) {
			f.at(b.name).fail("%q is neither a number of hosts such as 3 nor a share such as 25%%", b.text)
		}
	}
	for _, d := range []struct {
		name string
		d    Duration
	}{
		{"dc_bake", s.DCBake}, {"first_dc_bake", s.FirstDCBake}, {"min_healthy", s.MinHealthy},
		{"healthy_deadline", s.HealthyDeadline}, {"progress_deadline", s.ProgressDeadline}, {"stage_deadline", s.StageDeadline},
	} {
		within(f.at(d.name), d.d, 7*24*time.Hour)
	}
	if s.MinHealthy > 0 && s.HealthyDeadline > 0 && s.MinHealthy > s.HealthyDeadline {
		f.at("min_healthy").fail("%s is longer than healthy_deadline %s: no host could ever pass", s.MinHealthy, s.HealthyDeadline)
	}
	if s.MaxFailures < 0 || s.MaxFailures > 100_000 {
		f.at("max_failures").fail("%d is outside 0..100000", s.MaxFailures)
	}
}

func validateSteps(f fields, steps []Step) {
	if len(steps) > 100 {
		f.fail("%d steps, the limit is 100", len(steps))
	}
	var before Step // holds the highest host count and dial so far
	for i, step := range steps {
		at := f.index(i)
		within(at.at("bake"), step.Bake, 7*24*time.Hour)
		switch {
		case (step.Hosts != 0) == (step.Dial != 0):
			at.fail("exactly one of hosts and dial must be set")
		case step.Hosts < 0 || step.Hosts > 1_000_000:
			at.at("hosts").fail("%d is outside 1..1000000", step.Hosts)
		case !step.Dial.Valid():
			at.at("dial").fail("%d is outside 1..%d", step.Dial, dial.Full)
		case step.Hosts != 0 && step.Hosts <= before.Hosts:
			at.at("hosts").fail("%d does not widen the step before (%d)", step.Hosts, before.Hosts)
		case step.Dial != 0 && step.Dial <= before.Dial:
			at.at("dial").fail("%d does not widen the step before (%d)", step.Dial, before.Dial)
		}
		before.Hosts = max(before.Hosts, step.Hosts)
		if step.Dial.Valid() { // one that is not was reported and says nothing about the next
			before.Dial = max(before.Dial, step.Dial)
		}
	}
}

// isBudget accepts "3" (1 or more) and "25%" (1% to 100%).
func isBudget(text string) bool {
	number, percent := strings.CutSuffix(text, "%")
	n, err := strconv.Atoi(number)
	return err == nil && number[0] != '+' && n >= 1 && (!percent || n <= 100)
}
