package agent

import (
	"sync"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

// outbox holds reports until a session sends them. A later report about the same thing takes the place of the
// one before, so a slow or absent seeder costs a bounded amount of memory.
type outbox struct {
	mu    sync.Mutex
	keys  []string
	msgs  map[string]*murmurv1.AttachRequest
	ready chan struct{}
}

func newOutbox() *outbox {
	return &outbox{msgs: map[string]*murmurv1.AttachRequest{}, ready: make(chan struct{}, 1)}
}

// put adds or replaces the report kept under key.
func (o *outbox) put(key string, m *murmurv1.AttachRequest) {
	o.mu.Lock()
	if _, waits := o.msgs[key]; !waits {
		o.keys = append(o.keys, key)
	}
	o.msgs[key] = m
	o.mu.Unlock()
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// take empties the outbox, oldest key first.
func (o *outbox) take() []*murmurv1.AttachRequest {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]*murmurv1.AttachRequest, 0, len(o.keys))
	for _, k := range o.keys {
		out = append(out, o.msgs[k])
		delete(o.msgs, k)
	}
	o.keys = o.keys[:0]
	return out
}
