package dev

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stream collects what a browser gets.
type stream struct {
	mu     sync.Mutex
	head   http.Header
	text   strings.Builder
	cancel context.CancelFunc
	done   chan struct{}
}

func (s *stream) Header() http.Header { return s.head }
func (s *stream) WriteHeader(int)     {}
func (s *stream) Flush()              {}
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

// take gives the states that came since the last call, in the order in which they came.
func (s *stream) take(t *testing.T) (states []entry) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(s.text.String()) {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			var e entry
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatal(err)
			}
			states = append(states, e)
		}
	}
	s.text.Reset()
	return states
}

func listen(h *Hub) *stream {
	r := httptest.NewRequest(http.MethodGet, Prefix+"events", nil)
	r.Host = "localhost"
	ctx, cancel := context.WithCancel(r.Context())
	s := &stream{head: http.Header{}, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		h.Handler(http.NotFoundHandler()).ServeHTTP(s, r.WithContext(ctx))
	}()
	return s
}

func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Options{})
		h.Set(State{Name: "a", Reloads: 1})
		h.Set(State{Name: "b", Reloads: 1})
		h.Set(State{Name: "a", Reloads: 2})
		s := listen(h)
		if got := s.take(t); len(got) != 2 || got[0].Name != "b" || got[1].Name != "a" || got[1].Reloads != 2 || got[1].Boot != h.boot {
			t.Errorf("at first %+v", got)
		}
		h.Set(State{Name: "b", Problems: []Problem{{Title: "bad", Findings: []Finding{{Message: "</script>\n<b>"}}}}})
		if got := s.take(t); len(got) != 1 || got[0].Problems[0].Findings[0].Message != "</script>\n<b>" {
			t.Errorf("then %+v", got)
		}
		h.Remove("b")
		if got := s.take(t); len(got) != 0 {
			t.Errorf("of a page that is gone %+v", got)
		}
		late := listen(h)
		if got := late.take(t); len(got) != 1 || got[0].Name != "a" {
			t.Errorf("a second one gets %+v", got)
		}
		late.cancel()
		<-late.done
		time.Sleep(beat + time.Second)
		synctest.Wait()
		if text := s.text.String(); !strings.Contains(text, ": still here") {
			t.Errorf("no sign of life: %q", text)
		}
		h.Close()
		<-s.done
		if s := listen(h); true {
			<-s.done // none begins after Close
		}
		s.cancel()
	})
}

// asked is when a page is asked for a document.
func asked(h *Hub, r *http.Request) time.Duration {
	begin := time.Now()
	var at time.Duration
	w := httptest.NewRecorder()
	h.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { at = time.Since(begin) })).ServeHTTP(w, r)
	return at
}

func TestOpeningWaitsForABuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := testHub(t, State{Serving: true, Building: true, Reloads: 1})
		if got := asked(h, opening("/")); got != time.Second {
			t.Errorf("a long build is waited for %v", got)
		}
		program := opening("/")
		program.Header.Set("Sec-Fetch-Mode", "cors")
		if got := asked(h, program); got != 0 {
			t.Errorf("a program waits %v", got)
		}
		time.AfterFunc(100*time.Millisecond, func() { h.Set(State{Name: "y"}) }) // another page
		time.AfterFunc(300*time.Millisecond, func() { h.Set(State{Name: "x", Serving: true, Reloads: 2}) })
		var tag string
		r := opening("/")
		begin := time.Now()
		w := httptest.NewRecorder()
		h.Handler(http.HandlerFunc(htmlPage)).ServeHTTP(w, r)
		tag = w.Body.String()
		if waited := time.Since(begin); waited != 300*time.Millisecond || !strings.Contains(tag, `data-reloads="2"`) {
			t.Errorf("after %v: %s", waited, tag)
		}
		h.Set(State{Name: "x", Building: true})
		gone := opening("/")
		ctx, cancel := context.WithTimeout(gone.Context(), 50*time.Millisecond)
		defer cancel()
		if got := asked(h, gone.WithContext(ctx)); got != 50*time.Millisecond {
			t.Errorf("who has gone waits %v", got)
		}
	})
}

func TestWarnOnce(t *testing.T) {
	var texts []string
	h := New(Options{Warn: func(page, text string) { texts = append(texts, page+": "+text) }})
	for range 3 {
		h.warn("a", "x")
		h.warn("b", "x")
	}
	if strings.Join(texts, ", ") != "a: x, b: x" {
		t.Errorf("%q", texts)
	}
	for i := range 1000 {
		h.warn(strconv.Itoa(i), "y")
	}
	if len(h.warned) > maxWarned || len(texts) > maxWarned {
		t.Errorf("%d are kept, %d were told", len(h.warned), len(texts))
	}
}

// A page that comes back counts from 0: documents of the one before it must not take that for old news.
func TestPageThatComesBack(t *testing.T) {
	h := testHub(t, State{Serving: true, Reloads: 7})
	h.Set(State{Name: "y", Reloads: 1})
	x, _ := h.state("x")
	y, _ := h.state("y")
	h.Remove("x")
	h.Set(State{Name: "x", Serving: true})
	h.Set(State{Name: "y", Reloads: 1})
	if now, _ := h.state("x"); now.Boot <= x.Boot {
		t.Errorf("documents of boot %d are not told: %+v", x.Boot, now)
	}
	if now, _ := h.state("y"); now.Boot != y.Boot {
		t.Errorf("another page is out of date, too: %+v", now)
	}
}

func TestCloseLetsNobodyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := testHub(t, State{Serving: true, Building: true})
		time.AfterFunc(100*time.Millisecond, h.Close)
		if got := asked(h, opening("/")); got != 100*time.Millisecond {
			t.Errorf("waited %v for a build that will not be live", got)
		}
		if got := asked(h, opening("/")); got != 0 {
			t.Errorf("waited %v after the end", got)
		}
	})
}
