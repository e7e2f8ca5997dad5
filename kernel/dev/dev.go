// Package dev is what a browser sees of dev mode: pages that reload after a swap, stylesheets that change in place, and
// an overlay that tells what is wrong. The kernel tells a [Hub] the state of each page; the hub's handler, in front of
// the proxy, puts a script into the documents that browsers open, and the script follows the state over one stream.
//
// The stream carries states, not events: whoever connects gets the newest of every page, so nothing that was missed is
// missed for good. Without a hub nothing of this package is in the way of a request.
package dev

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Options is what a [Hub] asks of the kernel. The functions are called inside requests: they must be cheap and safe for
// concurrent use.
type Options struct {
	// Page names the page that a request goes to, "" when there is none.
	Page func(host, path string) string
	// Known tells whether the site goes by a host name, given without its port and in lower case. Loopback names and IP
	// addresses are known anyway; to others nothing of dev mode is shown, as a foreign site may have a name of its own
	// lead here.
	Known func(host string) bool
	// Wait is how long opening a page waits for a build of it that is under way.
	Wait func() time.Duration
	// Warn tells the developer something about a page, in one line. It is called once for each text.
	Warn func(page, text string)
}

// State is what a browser is to know of one page.
type State struct {
	Name     string    `json:"name"`
	Route    string    `json:"route"`
	Serving  bool      `json:"serving"`  // a worker takes requests
	Building bool      `json:"building"` // newer code is on its way
	Failed   bool      `json:"failed"`   // the newest source has no release
	Reloads  uint64    `json:"reloads"`  // rises when an open document is out of date
	Styles   Styles    `json:"styles"`
	Problems []Problem `json:"problems,omitempty"` // the worst first
	Live     *Timing   `json:"live,omitempty"`     // of the last save that went live
}

// Styles is the last change of stylesheets alone.
type Styles struct {
	Version uint64   `json:"version"`         // rises with each
	Files   []string `json:"files,omitempty"` // base names
}

// Timing is how long a save took to be live, and its parts in order. Durations are in milliseconds.
type Timing struct {
	Total float64 `json:"total"`
	Steps []Step  `json:"steps"`
}

// Step is one part of a [Timing].
type Step struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

// Problem is one thing that is wrong with a page. All of it is text: the browser never takes any for HTML.
type Problem struct {
	Title    string    `json:"title"`              // "Build failed"
	Note     string    `json:"note,omitempty"`     // what serves meanwhile
	Findings []Finding `json:"findings,omitempty"` // where it is
	Output   string    `json:"output,omitempty"`   // what a tool or the worker has printed
}

// Finding is a place in the source, and what is wrong there.
type Finding struct {
	Message string `json:"message"`
	File    string `json:"file,omitempty"` // as people write it
	Line    int    `json:"line,omitempty"` // from 1; 0: unknown
	Column  int    `json:"column,omitempty"`
	Link    string `json:"link,omitempty"`   // opens the place in an editor
	Source  []Line `json:"source,omitempty"` // around it
}

// Line is one line of source.
type Line struct {
	Number int    `json:"number"`
	Text   string `json:"text"`
}

// Hub holds the newest state of each page and tells browsers. It is safe for concurrent use. Make one with [New].
type Hub struct {
	o Options

	mu      sync.Mutex
	boot    int64 // tells what counts from 0 from what did before, in this server or an earlier one: rises
	pages   map[string]*entry
	version uint64          // of the newest entry
	changed chan struct{}   // closed at the next change
	closed  bool            // no streams any more
	warned  map[string]bool // page and text
	looks   looks
}

// entry is the state of a page, and when it was set.
type entry struct {
	State
	Boot    int64 `json:"boot"`
	version uint64
}

// New returns a hub without pages.
func New(o Options) *Hub {
	return &Hub{o: o, boot: time.Now().UnixMilli(), pages: map[string]*entry{}, changed: make(chan struct{}), warned: map[string]bool{}}
}

// Set puts the state of a page in place of the one before. It does not block. The hub keeps what s points to: it must
// not be changed afterwards.
func (h *Hub) Set(s State) {
	h.change(func() {
		h.version++
		boot := h.boot
		if old := h.pages[s.Name]; old != nil {
			boot = old.Boot
		}
		h.pages[s.Name] = &entry{State: s, Boot: boot, version: h.version}
	})
}

// Remove forgets a page. One of that name that comes later is another one. It does not block.
func (h *Hub) Remove(page string) {
	h.change(func() {
		h.boot++
		delete(h.pages, page)
	})
}

// Close ends all streams and all waiting, and lets none begin. It does not block. Requests are handled on.
func (h *Hub) Close() { h.change(func() { h.closed = true }) }

// change does something to the hub and tells the streams.
func (h *Hub) change(do func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do()
	close(h.changed)
	h.changed = make(chan struct{})
}

// newer gives the states that were set after a version, oldest first, the newest version, and what is closed when there
// are more. open is false once the hub is closed.
func (h *Hub) newer(than uint64) (states []*entry, version uint64, changed <-chan struct{}, open bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.pages {
		if e.version > than {
			states = append(states, e)
		}
	}
	slices.SortFunc(states, func(a, b *entry) int { return cmp.Compare(a.version, b.version) })
	return states, h.version, h.changed, !h.closed
}

// state gives the state of a page, and what is closed when it may have changed; nil once the hub is closed.
func (h *Hub) state(page string) (*entry, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.pages[page]
	if e == nil {
		e = &entry{State: State{Name: page}, Boot: h.boot}
	}
	if h.closed {
		return e, nil
	}
	return e, h.changed
}

// maxWarned bounds what is told: what comes from requests has no end.
const maxWarned = 100

func (h *Hub) warn(page, text string) {
	h.mu.Lock()
	known := h.warned[page+"\n"+text] || len(h.warned) >= maxWarned
	if !known {
		h.warned[page+"\n"+text] = true
	}
	h.mu.Unlock()
	if !known && h.o.Warn != nil {
		h.o.Warn(page, text)
	}
}
