package darkmode

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
)

// reportBatch bounds the counts of one report: with the longest keys it stays under flagd's 1 MiB.
const reportBatch = 3000

// usageReport is the JSON of a report.
type usageReport struct {
	Client string  `json:"client"`
	Counts []count `json:"counts"`
}

// runReports sends the counts now and then.
func (c *Client) runReports(ctx context.Context) {
	for sleep(ctx, c.cfg.ReportInterval*3/4+rand.N(c.cfg.ReportInterval/2+1)) {
		c.report(ctx)
	}
}

// report sends what was counted since the last report, and what could not be sent then. A report that ends in doubt
// is sent again: counts may be too high after a fault, never too low.
func (c *Client) report(ctx context.Context) {
	c.reportMu.Lock()
	defer c.reportMu.Unlock()
	c.unsent = merge(c.unsent, c.usage.take())
	for len(c.unsent) > 0 {
		n := min(len(c.unsent), reportBatch)
		if err := c.post(ctx, "/v1/usage", usageReport{c.cfg.Name, c.unsent[:n]}); err != nil {
			c.cfg.Logger.Debug("flags: counts not sent, kept for the next report", "err", err)
			return
		}
		c.unsent = c.unsent[n:]
	}
}

// merge adds counts of the same flag and variant up.
func merge(a, b []count) []count {
	if len(a) == 0 {
		return b
	}
	sums := map[count]uint64{}
	for _, list := range [][]count{a, b} {
		for _, n := range list {
			sums[count{Flag: n.Flag, Variant: n.Variant}] += n.Count
		}
	}
	return sorted(sums)
}

func sorted(sums map[count]uint64) []count {
	out := make([]count, 0, len(sums))
	for key, n := range sums {
		out = append(out, count{key.Flag, key.Variant, n})
	}
	slices.SortFunc(out, func(a, b count) int { return cmp.Or(cmp.Compare(a.Flag, b.Flag), cmp.Compare(a.Variant, b.Variant)) })
	return slices.Clip(out)
}
