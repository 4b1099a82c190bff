package identity

import (
	"sync"
	"time"
)

// maxLimited bounds how many keys a limiter remembers.
const maxLimited = 10_000

// limiter allows each key a burst of tries and then one per interval: a token bucket whose tries can be given back,
// so that only failures count. Its memory is bounded: when full, keys that are back at their whole burst are
// forgotten; when that frees nothing, strangers share one allowance.
type limiter struct {
	burst float64
	every time.Duration

	mu       sync.Mutex
	keys     map[string]*bucket
	overflow *bucket
}

// bucket is what a key had left at a time.
type bucket struct {
	left float64
	at   time.Time
}

func newLimiter(burst int, every time.Duration) *limiter {
	return &limiter{burst: float64(burst), every: every, keys: map[string]*bucket{}, overflow: &bucket{float64(burst), time.Now()}}
}

// take takes one try of the key, if it has any.
func (l *limiter) take(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucketLocked(key)
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// spent reports whether the key has no try left. It takes none.
func (l *limiter) spent(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.keys[key]
	return ok && l.refillLocked(b) < 1
}

// giveBack returns a try that was no failure.
func (l *limiter) giveBack(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.keys[key]; ok {
		b.left = min(l.burst, b.left+1)
	}
}

// reset gives the key its whole burst back.
func (l *limiter) reset(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.keys, key)
}

// bucketLocked is the key's bucket as of now.
func (l *limiter) bucketLocked(key string) *bucket {
	b, ok := l.keys[key]
	if !ok {
		if len(l.keys) >= maxLimited {
			l.forgetIdleLocked()
		}
		if b = l.overflow; len(l.keys) < maxLimited {
			b = &bucket{l.burst, time.Now()}
			l.keys[key] = b
		}
	}
	l.refillLocked(b)
	return b
}

// refillLocked adds what time gave and returns what is left.
func (l *limiter) refillLocked(b *bucket) float64 {
	at := time.Now()
	b.left = min(l.burst, b.left+float64(at.Sub(b.at))/float64(l.every))
	b.at = at
	return b.left
}

func (l *limiter) forgetIdleLocked() {
	for key, b := range l.keys {
		if l.refillLocked(b) >= l.burst {
			delete(l.keys, key)
		}
	}
}
