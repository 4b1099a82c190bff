package etcdstore_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/storetest"
)

// report adds the median and the 99th percentile of what was measured, in microseconds.
func report(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkCommit is one compare-and-swap of 1 KiB, on disk before it returns.
func BenchmarkCommit(b *testing.B) {
	s := open(b, config(b, shared))
	value := make([]byte, 1<<10)
	var rev int64
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		var err error
		if rev, err = s.Commit(b.Context(), record.Put(web, value, rev)); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	report(b, took)
}

func BenchmarkGet(b *testing.B) {
	s := open(b, config(b, shared))
	set(b, s, web, "value")
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := s.Get(b.Context(), web); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	report(b, took)
}

// BenchmarkList reads 2,000 records.
func BenchmarkList(b *testing.B) {
	s := open(b, config(b, shared))
	for i := range 2000 {
		set(b, s, record.Key{Kind: record.KindHost, ID: fmt.Sprint(i)}, "value")
	}
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		if items, _, err := s.List(b.Context(), record.KindHost, ""); err != nil || len(items) != 2000 {
			b.Fatal(len(items), err)
		}
		took = append(took, time.Since(start))
	}
	report(b, took)
}

// BenchmarkWatch is the time from the start of a commit to its batch.
func BenchmarkWatch(b *testing.B) {
	s := open(b, config(b, shared))
	w := storetest.StartWatch(b, s, record.KindService)
	w.Next()
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		set(b, s, web, "value")
		w.Next()
		took = append(took, time.Since(start))
	}
	report(b, took)
}
