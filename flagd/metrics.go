package flagd

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/murmuration/murmuration/feature"
)

// metrics are what /metrics shows. Names of labels are OpenTelemetry's feature_flag attributes, in Prometheus's spelling.
type metrics struct {
	registry    *prometheus.Registry
	killLatency prometheus.Histogram
	streamLife  *prometheus.HistogramVec
	copyErrors  prometheus.Counter
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		killLatency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "feature_flag_kill_latency_seconds", Help: "Time from the request of a kill to a client's confirmation.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}),
		streamLife: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "feature_flag_stream_duration_seconds", Help: "How long event streams lasted, by protocol and by why they ended.",
			Buckets: []float64{.1, 1, 10, 60, 600, 3600},
		}, []string{"protocol", "reason"}),
		copyErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "feature_flag_disk_copy_errors_total", Help: "Disk copies that could not be written.",
		}),
	}
	m.registry.MustRegister(
		m.killLatency, m.streamLife, m.copyErrors, serverCollector{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

func (m *metrics) streamEnded(protocol string, d time.Duration, why string) {
	m.streamLife.WithLabelValues(protocol, why).Observe(d.Seconds())
}

// serverCollector reads what the server counts anyway.
type serverCollector struct{ s *Server }

var (
	evaluationsDesc = prometheus.NewDesc("feature_flag_evaluations_total", "Evaluations, by this server and as clients reported them (reason unknown).",
		[]string{"feature_flag_key", "feature_flag_result_variant", "feature_flag_result_reason"}, nil)
	streamsDesc = prometheus.NewDesc("feature_flag_streams", "Open event streams.", []string{"protocol"}, nil)
	openedDesc  = prometheus.NewDesc("feature_flag_streams_opened_total", "Event streams admitted.", nil, nil)
	refusedDesc = prometheus.NewDesc("feature_flag_streams_refused_total", "Event streams refused, by cause.", []string{"cause"}, nil)
	flagsDesc   = prometheus.NewDesc("feature_flag_flags", "Flags in force.", []string{"state"}, nil)
	revDesc     = prometheus.NewDesc("feature_flag_revision", "The store's revision that is served.", nil, nil)
	ageDesc     = prometheus.NewDesc("feature_flag_store_age_seconds", "Time since the store was last heard of.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (c serverCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{evaluationsDesc, streamsDesc, openedDesc, refusedDesc, flagsDesc, revDesc, ageDesc} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c serverCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	type series struct {
		flag, variant string
		reason        feature.Reason
	}
	sums := map[series]float64{}
	c.s.usage.each(func(k tallyKey, n uint64) { sums[series{k.flag, k.variant, k.reason}] += float64(n) })
	for k, n := range sums {
		counter(evaluationsDesc, n, k.flag, k.variant, strings.ToLower(string(k.reason)))
	}
	hub := c.s.hub.stats()
	gauge(streamsDesc, float64(hub.native), "native")
	gauge(streamsDesc, float64(hub.open-hub.native), "ofrep")
	counter(openedDesc, float64(hub.opened))
	counter(refusedDesc, float64(hub.refusedFull), "full")
	counter(refusedDesc, float64(hub.refusedRate), "rate")
	st, killed := c.s.view.load(), 0
	for _, f := range st.flags {
		if f.def.Killed != nil {
			killed++
		}
	}
	gauge(flagsDesc, float64(st.set.Len()-killed), "live")
	gauge(flagsDesc, float64(killed), "killed")
	gauge(revDesc, float64(st.rev))
	gauge(ageDesc, c.s.view.age().Seconds())
}
