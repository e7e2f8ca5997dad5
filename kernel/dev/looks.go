package dev

// looks is what people look at. The mutex of the hub guards it.
type looks struct {
	streams int            // browsers that are connected
	opened  string         // page whose document was asked for last
	opening map[string]int // page -> documents that are asked for, and wait for newer code
}

// Awaited tells whether somebody waits for newer code of a page: for a document of it, or in a browser in which it was
// opened last. It does not block.
func (h *Hub) Awaited(page string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.looks.opening[page] > 0 || h.looks.streams > 0 && h.looks.opened == page
}

// looking counts a browser until done is called.
func (h *Hub) looking() (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looks.streams++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.looks.streams--
	}
}

// opening counts a document that may have to wait, until done is called.
func (h *Hub) opening(page string) (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.looks.opening == nil {
		h.looks.opening = map[string]int{}
	}
	h.looks.opened = page
	h.looks.opening[page]++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.looks.opening[page]--; h.looks.opening[page] == 0 {
			delete(h.looks.opening, page)
		}
	}
}
