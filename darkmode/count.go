package darkmode

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/murmuration/murmuration/feature"
)

// counter counts the evaluations of one flag by variant. Its cells are spread over cache lines so that
// processors that count the same flag do not wait for each other.
type counter struct {
	variants []string
	cells    []uint64
	stride   uint32 // cells of one shard: whole cache lines
	mask     uint32 // shards - 1
}

// cellsPerLine is how many 8-byte cells a cache line holds; maxShards bounds a counter's memory.
const (
	cellsPerLine = 8
	maxShards    = 16
)

func newCounter(variants []string) *counter {
	shards := 1
	for shards < min(4*runtime.GOMAXPROCS(0), maxShards) { // more than processors, so that they seldom meet
		shards *= 2
	}
	stride := (len(variants) + cellsPerLine - 1) / cellsPerLine * cellsPerLine
	return &counter{variants: variants, cells: make([]uint64, shards*stride), stride: uint32(stride), mask: uint32(shards - 1)}
}

// add counts one evaluation. spread is any number that differs between callers.
func (c *counter) add(spread uint32, variant int) {
	i := int(spread&c.mask*c.stride) + variant
	if i < len(c.cells) { // a set and a counter of two states may meet for a moment
		atomic.AddUint64(&c.cells[i], 1)
	}
}

// take returns the counts since the last take and starts them anew.
func (c *counter) take() []uint64 {
	sums := make([]uint64, len(c.variants))
	for i := range c.cells {
		if v := i % int(c.stride); v < len(sums) {
			sums[v] += atomic.SwapUint64(&c.cells[i], 0)
		}
	}
	return sums
}

// usage holds the counters of all flags that were read.
type usage struct {
	mu       sync.Mutex
	counters map[string]*counter
	// retired are counters whose flag has other variants now; they are drained twice, as a read that began before
	// may still count.
	retired, drained []retiredCounter
}

type retiredCounter struct {
	key string
	*counter
}

// counter returns the flag's counter for these variants.
func (u *usage) counter(key string, outcomes []feature.Outcome) *counter {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.counters[key]
	if c != nil && slices.EqualFunc(c.variants, outcomes, func(name string, o feature.Outcome) bool { return name == o.Variant }) {
		return c
	}
	names := make([]string, len(outcomes))
	for i, o := range outcomes {
		names[i] = o.Variant
	}
	if c != nil {
		u.retired = append(u.retired, retiredCounter{key, c})
	}
	if u.counters == nil {
		u.counters = map[string]*counter{}
	}
	c = newCounter(names)
	u.counters[key] = c
	return c
}

// count is the JSON of one count in a report.
type count struct {
	Flag    string `json:"flag"`
	Variant string `json:"variant"`
	Count   uint64 `json:"count"`
}

// take returns the counts since the last take, in order of flag and variant.
func (u *usage) take() []count {
	u.mu.Lock()
	defer u.mu.Unlock()
	sums := map[count]uint64{}
	add := func(key string, c *counter) {
		for i, n := range c.take() {
			if n > 0 {
				sums[count{Flag: key, Variant: c.variants[i]}] += n
			}
		}
	}
	for key, c := range u.counters {
		add(key, c)
	}
	for _, c := range slices.Concat(u.retired, u.drained) {
		add(c.key, c.counter)
	}
	u.retired, u.drained = nil, u.retired
	return sorted(sums)
}
