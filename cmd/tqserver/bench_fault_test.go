//go:build linux && bench

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// htmlPage is a page that a browser shows.
func htmlPage(text string) string {
	return strings.Replace(plainPage(text), "fmt.Fprintln(w, ", `fmt.Fprintln(w, "<!doctype html><title>page</title><p id=p>" + `, 1)
}

// benchFault saves mistakes while a page is open, each after a version that is right. told is when the stream of events
// to the browser had it; seen is when Chromium, if there is one, showed it.
func benchFault(t *testing.T) (told, seen []time.Duration) {
	s := newSite(t, map[string]string{savedPage: htmlPage("right")})
	s.startReal("dev") // ends after the browser, which would complain otherwise
	events := s.follow("/_tqserver/dev/events")
	var b *browser
	if hasChromium() {
		b = openBrowser(t, s)
		b.open("/")
	}
	each(func(n int) time.Duration {
		wrong := fmt.Sprint("wrong", n)
		if b != nil {
			evaluate[bool](b, fmt.Sprintf(watchOverlay, wrong))
		}
		start := time.Now()
		s.write(savedPage, strings.Replace(htmlPage("right"), "os.Getenv", wrong, 1))
		told = append(told, events.until(t, wrong).Sub(start))
		if b != nil {
			seen = append(seen, b.whenSeen(wrong).Sub(start))
		}
		text := fmt.Sprint("right ", n)
		s.write(savedPage, htmlPage(text))
		s.awaitBody("/", "<!doctype html><title>page</title><p id=p>"+text)
		if b != nil {
			b.awaitText("#p", text)
		}
		return 0
	})
	return told, seen
}

// watchOverlay notes, by the clock of the machine, after which frame a text is to be seen over the page.
const watchOverlay = `(() => {
	window.seenAt = 0;
	const look = () => {
		const shown = document.querySelector("tqserver-dev")?.shadowRoot?.querySelector(".shade:not([hidden])");
		if (!shown?.textContent.includes(%q)) requestAnimationFrame(look);
		else requestAnimationFrame(() => window.seenAt = performance.timeOrigin + performance.now());
	};
	look();
	return true;
})()`

// whenSeen waits until watchOverlay has seen its text.
func (b *browser) whenSeen(text string) time.Time {
	b.t.Helper()
	at := 0.0
	b.s.await("the browser to show "+text, func() error {
		if at = evaluate[float64](b, "window.seenAt"); at == 0 {
			return errors.New("it does not")
		}
		return nil
	})
	return time.UnixMicro(int64(at * 1000))
}

func evaluate[T any](b *browser, script string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](script))
	if err != nil {
		b.t.Fatalf("browser: %v", err)
	}
	return value
}

func hasChromium() bool {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if _, err := exec.LookPath(name); err == nil {
			return true
		}
	}
	return false
}

// events is a stream of server-sent events, read as it comes.
type events struct{ lines chan heard }

type heard struct {
	text string
	at   time.Time
}

func (s *site) follow(path string) *events {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	e := &events{lines: make(chan heard, 1000)}
	s.t.Cleanup(func() {
		cancel()
		for range e.lines { // until it is closed
		}
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url(path), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		close(e.lines)
		s.t.Fatalf("follow %s: %+v, %v", path, resp, err)
	}
	go func() {
		defer resp.Body.Close()
		defer close(e.lines)
		in := bufio.NewScanner(resp.Body)
		in.Buffer(nil, 1<<24)
		for in.Scan() {
			e.lines <- heard{in.Text(), time.Now()}
		}
	}()
	return e
}

// until gives when the stream had a line with a text.
func (e *events) until(t *testing.T, text string) time.Time {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case l, ok := <-e.lines:
			if !ok {
				t.Fatalf("the stream of events ended before it had %q", text)
			}
			if strings.Contains(l.text, text) {
				return l.at
			}
		case <-limit:
			t.Fatalf("the stream of events never had %q", text)
		}
	}
}
