package identity

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxLimited bounds how many keys a limiter remembers.
const maxLimited = 10_000

// limiter allows each key a burst of tries and then one per interval. Its memory is bounded: when full, keys that
// are back at their whole burst are forgotten; when that frees nothing, strangers share one allowance.
type limiter struct {
	burst int
	every time.Duration

	mu       sync.Mutex
	keys     map[string]*rate.Limiter
	overflow *rate.Limiter
}

func newLimiter(burst int, every time.Duration) *limiter {
	l := &limiter{burst: burst, every: every, keys: map[string]*rate.Limiter{}}
	l.overflow = l.fresh()
	return l
}

func (l *limiter) fresh() *rate.Limiter { return rate.NewLimiter(rate.Every(l.every), l.burst) }

// allow takes one try of the key, if it has any.
func (l *limiter) allow(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.keys[key]
	if !ok {
		if len(l.keys) >= maxLimited {
			l.forgetIdleLocked()
		}
		if len(l.keys) >= maxLimited {
			return l.overflow.Allow()
		}
		r = l.fresh()
		l.keys[key] = r
	}
	return r.Allow()
}

// reset gives the key its whole burst back.
func (l *limiter) reset(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.keys, key)
}

func (l *limiter) forgetIdleLocked() {
	for key, r := range l.keys {
		if r.Tokens() >= float64(l.burst) {
			delete(l.keys, key)
		}
	}
}
