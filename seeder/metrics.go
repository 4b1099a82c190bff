package seeder

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics is what /metrics shows, in a registry of this seeder's own.
type metrics struct {
	registry *prometheus.Registry
}

func newMetrics(s *Seeder) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, g := range []struct {
		name, help string
		read       func() float64
	}{
		{"murmur_seeder_sessions", "Agents attached to this seeder.", func() float64 { return float64(len(s.sessions.all())) }},
		{"murmur_seeder_leading", "1 while this seeder runs the rollouts.", func() float64 { return oneIf(s.Leading()) }},
		{"murmur_rollouts_active", "Rollouts that have not ended.", func() float64 { return float64(len(s.view.activeRollouts())) }},
		{"murmur_fleet_stopped", "1 while the emergency stop is in force.", func() float64 {
			stop, _, _, _ := s.view.fleetState()
			return oneIf(stop.Stopped)
		}},
		{"murmur_store_revision", "Revision of the store that this seeder has seen.", func() float64 {
			_, _, _, rev := s.view.fleetState()
			return float64(rev)
		}},
		{"murmur_swarm_sent_bytes", "Bytes this seeder sent in the swarms it offers now.", func() float64 { return float64(s.desk.sent()) }},
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, g.read))
	}
	return m
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
