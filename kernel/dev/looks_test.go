package dev

import (
	"context"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// What a developer waits for, or has opened last in a browser that is still there, is awaited.
func TestAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Options{Wait: func() time.Duration { return time.Second }})
		h.Set(State{Name: "a", Building: true})
		if h.Awaited("a") {
			t.Error("awaited, and nobody is there")
		}
		done := make(chan struct{})
		go func() { h.await(t.Context(), "a"); close(done) }()
		synctest.Wait()
		if !h.Awaited("a") || h.Awaited("b") {
			t.Error("a document of a waits")
		}
		<-done
		if h.Awaited("a") {
			t.Error("the document has its answer, and no browser is connected")
		}
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan struct{})
		go func() {
			h.stream(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil).WithContext(ctx))
			close(gone)
		}()
		synctest.Wait()
		if !h.Awaited("a") || h.Awaited("b") {
			t.Error("a browser shows a")
		}
		h.await(t.Context(), "b")
		if h.Awaited("a") || !h.Awaited("b") {
			t.Error("the browser shows b now")
		}
		leave()
		<-gone
		if h.Awaited("b") || len(h.looks.opening) != 0 {
			t.Error("the browser has gone")
		}
	})
}
