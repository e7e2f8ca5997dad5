package kernel

import "sync"

// mailbox queues what is to happen on a page's goroutine. Putting never blocks.
type mailbox struct {
	mu     sync.Mutex
	queue  []func()
	closed bool
	wake   chan struct{} // holds a token when the queue is not empty
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

// put queues f. It tells whether f will be called.
func (m *mailbox) put(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.queue = append(m.queue, f)
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return true
}

// take empties the queue.
func (m *mailbox) take() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	queue := m.queue
	m.queue = nil
	return queue
}

// closeEmpty closes the mailbox unless something is queued. It tells whether it did.
func (m *mailbox) closeEmpty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = len(m.queue) == 0
	return m.closed
}
