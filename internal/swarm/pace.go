package swarm

import "time"

// pace judges the progress of one Fetch. It is used by one goroutine.
type pace struct {
	since   time.Time // of the last progress
	bytes   int64     // verified then
	useful  int64     // blocks received then
	between gap       // moving average of the time between verified pieces
	slack   time.Duration
	first   time.Duration // limit before anything was measured

	reconnect time.Time // not before
	fallback  time.Time // not before
	backoff   time.Duration
}

const (
	maxSlack   = time.Minute
	maxBackoff = 15 * time.Second
)

func newPace(now time.Time, first time.Duration) *pace {
	return &pace{since: now, bytes: -1, first: first}
}

// observe takes the counters of a Fetch: bytes verified and blocks received so far. While blocks arrive, a piece may take
// as long as the rate explains (all connections working on one each, twice over), up to a minute.
func (p *pace) observe(now time.Time, bytes, useful, pieceLength int64, conns int) {
	switch {
	case p.bytes < 0:
		p.bytes, p.useful, p.since = bytes, useful, now
	case bytes != p.bytes:
		pieces := max(1, (bytes-p.bytes)/pieceLength)
		p.between.add(now.Sub(p.since) / time.Duration(pieces))
		p.bytes, p.useful, p.since, p.slack, p.backoff = bytes, useful, now, 0, 0
		p.reconnect, p.fallback = time.Time{}, time.Time{}
	case useful > p.useful && now.After(p.since):
		rate := float64(useful-p.useful) / now.Sub(p.since).Seconds()
		need := 2 * float64(max(1, conns)) * float64(pieceLength) / rate
		p.slack = min(time.Duration(need*float64(time.Second)), maxSlack)
	}
}

// limit is how long no progress is no worry.
func (p *pace) limit() time.Duration {
	if p.between == 0 {
		return max(p.first, p.slack)
	}
	return max(patience(p.between), p.slack)
}

// shouldReconnect reports, once per limit, that the Fetch stalls.
func (p *pace) shouldReconnect(now time.Time) bool {
	if now.Sub(p.since) <= p.limit() || now.Before(p.reconnect) {
		return false
	}
	p.reconnect = now.Add(2 * p.limit())
	return true
}

// shouldFallBack reports that new connections did not help either.
func (p *pace) shouldFallBack(now time.Time) bool {
	return now.Sub(p.since) > 2*p.limit() && !now.Before(p.fallback)
}

// fellBack notes the outcome of a last-resort fetch of n bytes. They are no progress of the swarm, so the next follows at
// once while the stall lasts; a failed one is repeated after 1 s, doubling to 15 s.
func (p *pace) fellBack(now time.Time, n int64, err error) {
	p.bytes += n
	if err == nil {
		p.backoff, p.fallback = 0, now
		return
	}
	p.backoff = min(max(2*p.backoff, time.Second), maxBackoff)
	p.fallback = now.Add(p.backoff)
}
