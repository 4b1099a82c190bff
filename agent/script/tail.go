package script

import "sync"

// tail is a writer that keeps the first and the last Keep bytes written to it. It is safe for the concurrent
// writes of two streams.
type tail struct {
	mu    sync.Mutex
	head  []byte
	ring  []byte
	next  int // where the ring is written next, once it is full
	total int64
}

// Write never fails and never blocks.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	t.total += int64(n)
	if room := Keep - len(t.head); room > 0 {
		k := min(room, len(p))
		t.head = append(t.head, p[:k]...)
		p = p[k:]
	}
	if len(p) > Keep {
		p = p[len(p)-Keep:]
	}
	if room := Keep - len(t.ring); room > 0 {
		k := min(room, len(p))
		t.ring = append(t.ring, p[:k]...)
		p = p[k:]
	}
	for len(p) > 0 {
		k := copy(t.ring[t.next:], p)
		t.next = (t.next + k) % Keep
		p = p[k:]
	}
	return n, nil
}

// bytes returns what was kept, in order, and how many bytes between head and tail were dropped.
func (t *tail) bytes() (kept []byte, omitted int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept = make([]byte, 0, len(t.head)+len(t.ring))
	kept = append(kept, t.head...)
	kept = append(kept, t.ring[t.next:]...)
	kept = append(kept, t.ring[:t.next]...)
	return kept, t.total - int64(len(kept))
}
