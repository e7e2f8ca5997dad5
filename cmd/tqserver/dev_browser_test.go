//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// devPage is a page with what a reload is to keep, and a stylesheet beside it that needs no build.
func devPage(heading string) string {
	return fmt.Sprintf(`package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tqserver/tqserver/sdk/worker"
)

const heading = %q

const body = `+"`"+`<!DOCTYPE html>
<html lang="en">
<!-- <head> is not here -->
<head><meta charset="utf-8"><title>Page</title><link rel="stylesheet" href="/style.css"></head>
<body>
<h1>%%s</h1>
<a href="/slow">slow</a>
<form><input name="name" value="as sent"><input name="secret" type="password"><input name="shown_password"><input type="checkbox" name="more">
<textarea name="text"></textarea><select name="one"><option>a<option>b</select><input name="untouched" value="%%s"></form>
<details><summary>more</summary>text</details>
<pre>%%s</pre>
</body></html>`+"`"+`

func main() {
	runtime, err := worker.NewRuntime()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'self'")
		fmt.Fprintf(w, body, heading, heading, strings.Repeat("tall\n", 200))
	})
	http.HandleFunc("/style.css", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(os.Getenv("TQ_PAGE_DIR"), "style.css"))
	})
	http.HandleFunc("/api", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, "{\"html\": \"<html><head></head></html>\", \"heading\": %%q}", heading)
	})
	http.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		for done := filepath.Join(os.Getenv("TQ_PAGE_DIR"), "done.tmp"); r.Context().Err() == nil; time.Sleep(5 * time.Millisecond) {
			if _, err := os.Stat(done); err == nil {
				break
			}
		}
		fmt.Fprintf(w, "<h1>slow %%s</h1>", heading)
	})
	http.HandleFunc("/heard.css", func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Type", "text/css") })
	http.HandleFunc("/panic", func(w http.ResponseWriter, r *http.Request) {
		panic("<b>out of tea</b>")
	})
	if err := runtime.StartServer(http.DefaultServeMux); err != nil {
		log.Fatal(err)
	}
}
`, heading)
}

// awaitScript waits until an expression gives a value, as text.
func (b *browser) awaitScript(what, script, want string) {
	b.t.Helper()
	b.s.await(what, func() error {
		got, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("String("+script+")"))
		if err == nil && got != want {
			err = fmt.Errorf("%s gives %q, not %q", script, got, want)
		}
		return err
	})
}

// overlay is the text of what dev mode shows over a page, "" for nothing.
const overlay = `(() => { const shade = document.querySelector("tqserver-dev")?.shadowRoot.querySelector(".shade");
	return shade && !shade.hidden ? shade.innerText : ""; })()`

func (b *browser) awaitOverlay(want ...string) {
	b.t.Helper()
	b.s.await("the overlay to show "+strings.Join(want, ", "), func() error {
		got, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](overlay))
		for _, text := range want {
			if err == nil && !strings.Contains(got, text) {
				err = fmt.Errorf("it shows %q", got)
			}
		}
		return err
	})
}

func (b *browser) awaitNoOverlay() {
	b.t.Helper()
	b.awaitScript("the overlay to go", overlay, "")
}

func (b *browser) run(script string) {
	b.t.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.Evaluate[any](script+"; null")); err != nil {
		b.t.Fatalf("%s: %v", script, err)
	}
}

// visit goes to a path, whatever it is answered with.
func (b *browser) visit(path string) {
	b.t.Helper()
	if _, err := chromedp.RunResponse(b.ctx, chromedp.Navigate(b.s.url(path))); err != nil {
		b.t.Fatalf("visit %s: %v", path, err)
	}
}

// without takes something from the documents that are opened from now on, before any script runs there.
func (b *browser) without(script string) {
	b.t.Helper()
	call(b, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: script})
}

// openDev starts a site of one page in dev mode, and a browser that has opened it.
func openDev(t *testing.T, source string) (*site, *browser) {
	t.Helper()
	findChromium(t)
	s := newSite(t, map[string]string{"pages/index/main.go": source, "pages/index/style.css": "h1 { color: rgb(1, 2, 3); }"})
	s.configure("", "", "dev: {wait_ms: 60000}\n")
	s.start("dev")
	return s, openBrowser(t, s)
}

// TestDevBrowser goes through a developer's day in a real browser.
func TestDevBrowser(t *testing.T) {
	s, b := openDev(t, devPage("one"))
	b.open("/")
	b.awaitText("h1", "one")
	for _, step := range []struct {
		name string
		run  func(*testing.T, *site, *browser)
	}{
		{"a save reloads", devReload}, {"a stylesheet does not", devStyle}, {"what does not compile", devBroken},
		{"mended", devMended}, {"a panic", devPanic}, {"a build is waited for", devHold}, {"who leaves", devLeave}, {"many tabs", devTabs},
		{"a restart", devRestart},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, s, b) }) {
			break
		}
	}
}

// devReload saves the page: the browser reloads it, and keeps what was typed and where it was read.
func devReload(t *testing.T, s *site, b *browser) {
	b.run(`document.querySelector("[name=name]").value = "typed";
		document.querySelector("[name=secret]").value = "hidden";
		document.querySelector("[name=shown_password]").value = "hidden";
		document.querySelector("[name=more]").checked = true;
		document.querySelector("[name=text]").value = "two\nlines";
		document.querySelector("[name=one]").value = "b";
		document.querySelector("details").open = true;
		document.querySelector("[name=text]").focus({preventScroll: true});
		document.querySelector("[name=text]").setSelectionRange(2, 3);
		scrollTo(0, 777)`)
	s.write("pages/index/main.go", devPage("two"))
	b.awaitText("h1", "two")
	b.awaitScript("what was typed to be kept", `[document.querySelector("[name=name]").value, document.querySelector("[name=secret]").value,
		document.querySelector("[name=shown_password]").value, document.querySelector("[name=more]").checked, document.querySelector("[name=text]").value, document.querySelector("[name=one]").value,
		document.querySelector("[name=untouched]").value, document.querySelector("details").open, document.activeElement.name,
		document.activeElement.selectionStart, scrollY].join()`, "typed,,,true,two\nlines,b,two,true,text,2,777")
	b.awaitScript("how long it took", `/live in \d+/.test(document.querySelector("tqserver-dev")?.shadowRoot.querySelector(".corner").textContent)`, "true")
	b.screenshot("timing")
	if build := s.page("index").Build; build.BuildMS <= 0 || build.StartMS <= 0 || build.ReadyMS <= 0 || build.SwapMS <= 0 {
		t.Errorf("the times of the build: %+v", build)
	}
	line := regexp.MustCompile(`live: /: page=index release=\w+ detect=\S+ build=\S+ (steps="[^"]+" )?start=\S+ ready=\S+ swap=\S+ total=\S+`)
	if out := s.out.String(); !line.MatchString(out) {
		t.Error("no line of it in the terminal")
	}
}

func devStyle(t *testing.T, s *site, b *browser) {
	b.run(`window.same = true`)
	release := s.page("index").Release
	s.write("pages/index/style.css", "h1 { color: rgb(7, 8, 9); }")
	b.awaitScript("the new colour", `getComputedStyle(document.querySelector("h1")).color`, "rgb(7, 8, 9)")
	b.awaitScript("one stylesheet", `document.querySelectorAll("link").length`, "1")
	b.awaitScript("no reload", `window.same`, "true")
	if page := s.page("index"); page.Release != release {
		t.Errorf("a stylesheet has brought release %s in place of %s", page.Release, release)
	}
}

// devBroken saves what does not compile: it shows over the page, as text.
func devBroken(t *testing.T, s *site, b *browser) {
	s.write("pages/index/main.go", strings.Replace(devPage("three"), "func main() {", "func main() {\n\t\"<img src=x onerror='window.hacked = true'>\" + 1", 1))
	b.awaitOverlay("Build failed", "the previous release serves on", "pages/index/main.go:", "<img src=x onerror=", "func main() {", "runtime, err := worker.NewRuntime()")
	b.awaitScript("the message to be text", `[window.hacked, window.same, document.querySelector("tqserver-dev").shadowRoot.querySelector("img")].join()`, ",true,")
	b.awaitScript("the link to the editor", `/^vscode:\/\/file\/.*\/pages\/index\/main.go:\d+:\d+$/.test(
		document.querySelector("tqserver-dev").shadowRoot.querySelector("a").href)`, "true")
	b.shows("overlay")
	if resp := s.fetch("/api", nil); resp.Header.Get("X-TQ-Build") != "failed" || resp.StatusCode != 200 {
		t.Errorf("/api while the build fails: %v", resp.Header)
	}
	b.do(chromedp.KeyEvent("\x1b"))
	b.awaitNoOverlay()
	b.do(chromedp.Reload())
	b.awaitOverlay("Build failed")
	b.awaitText("h1", "two")
}

func devMended(t *testing.T, s *site, b *browser) {
	s.write("pages/index/main.go", devPage("four"))
	b.awaitText("h1", "four")
	b.awaitNoOverlay()
	if resp := s.fetch("/api", nil); resp.Header.Get("X-TQ-Build") != "" {
		t.Errorf("/api when the build is mended: %v", resp.Header)
	}
}

// devPanic opens a page that panics: the browser shows where, in place of the bare error. Then it goes back, so that
// nothing panics again when the page is as before.
func devPanic(t *testing.T, s *site, b *browser) {
	b.expects("status of 502")
	b.visit("/panic")
	b.awaitOverlay("Panic", "<b>out of tea</b>", "pages/index/main.go:", `panic("<b>out of tea</b>")`)
	b.awaitText("body", "cannot be shown")
	b.shows("panic")
	s.write("pages/index/main.go", strings.Replace(devPage("five"), `panic("<b>out of tea</b>")`, `fmt.Fprint(w, "<h1>tea</h1>")`, 1))
	b.awaitText("h1", "tea")
	b.awaitNoOverlay()
	b.open("/")
}

// devHold opens the page while it is built: what comes is the new code, also to a browser that has no open stream. It is
// saved in one piece, as a half of it is another build, which ends before.
func devHold(t *testing.T, s *site, b *browser) {
	building := s.awaitState(`"building":true`)
	s.write("pages/index/main.go.tmp", devPage("six"))
	if err := os.Rename(s.path("pages/index/main.go.tmp"), s.path("pages/index/main.go")); err != nil {
		t.Fatal(err)
	}
	<-building
	resp := s.fetch("/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"})
	if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), "<h1>six</h1>") || !strings.Contains(string(text), "client.js") {
		t.Errorf("opened during the build: %v\n%.300s", err, text)
	}
	b.awaitText("h1", "six")
}

// devLeave follows a link that is answered after the next save is live: the reload that is due does not call back who
// has left, and what he comes to, which is of the release before, is loaded again. Chromium runs no script for a test
// while he is under way, so a stylesheet that is asked for tells that the old document has heard of the release.
func devLeave(t *testing.T, s *site, b *browser) {
	b.run(`const port = new SharedWorker(document.querySelector("script[data-page]").src.replace("client.js", "worker.js"), {name: "tqserver"}).port;
		const loaded = Number(document.querySelector("script[data-page]").dataset.reloads);
		const heard = document.createElement("link");
		Object.assign(heard, {rel: "stylesheet", href: "/heard.css"});
		port.onmessage = (event) => { if (event.data.reloads > loaded) document.head.append(heard); };
		port.postMessage("hello");
		document.querySelector("a").click()`)
	s.await("the link to be followed", func() error {
		if workers := s.page("index").Workers; workers[0].InFlight == 0 {
			return errors.New("nothing asks for it")
		}
		return nil
	})
	s.write("pages/index/main.go", devPage("left"))
	s.awaitLog("GET /heard.css")
	s.write("pages/index/done.tmp", "")
	b.awaitText("h1", "slow left")
	b.open("/")
}

// devTabs has more tabs open than a browser opens connections to a server: all are told.
func devTabs(t *testing.T, s *site, b *browser) {
	var tabs []*browser
	for range 6 {
		ctx, closeTab := chromedp.NewContext(b.ctx)
		defer closeTab()
		tabs = append(tabs, &browser{t: t, s: s, ctx: ctx})
		tabs[len(tabs)-1].open("/")
	}
	s.write("pages/index/main.go", devPage("tabs"))
	for _, tab := range append(tabs, b) {
		tab.awaitText("h1", "tabs")
	}
}

// devRestart edits the page while the server is down: the browser finds its way back by itself, and sees the new code.
// Then it does without a SharedWorker.
func devRestart(t *testing.T, s *site, b *browser) {
	b.expects("net::ERR_", "status of 503")
	s.stop()
	s.write("pages/index/main.go", devPage("seven"))
	s.start("dev")
	b.awaitText("h1", "seven")
	b.without("delete window.SharedWorker")
	b.open("/")
	s.write("pages/index/main.go", devPage("eight"))
	b.awaitText("h1", "eight")
	b.awaitScript("no SharedWorker", `typeof SharedWorker`, "undefined")
}

// TestDevBrowserBrokenFromTheStart opens a page that has never been built, and mends it.
func TestDevBrowserBrokenFromTheStart(t *testing.T) {
	t.Parallel()
	s, b := openDev(t, "package main\n\nfunc main() { undefined() }\n")
	b.expects("status of 503")
	b.visit("/x")
	b.awaitOverlay("Build failed", "nothing serves it until this is mended", "undefined: undefined", "pages/index/main.go:3:15")
	b.awaitText("body", "cannot be shown")
	b.shows("first")
	if resp := s.fetch("/x", nil); resp.StatusCode != 503 || resp.Header.Get("X-TQ-Build") != "failed" || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("a program gets %d %v", resp.StatusCode, resp.Header)
	}
	s.write("pages/index/main.go", devPage("mended"))
	b.awaitText("h1", "mended")
	b.awaitNoOverlay()
}

// TestRunHasNothingOfDevMode asks a server that is not in dev mode for all of it.
func TestRunHasNothingOfDevMode(t *testing.T) {
	t.Parallel()
	s := newSite(t, map[string]string{"pages/index/main.go": devPage("one")})
	s.start("run")
	opens := map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Accept": "text/html"}
	open := func(path string) string {
		resp := s.fetch(path, opens)
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 || resp.Header.Get("X-TQ-Build") != "" || resp.Header.Get("Cache-Control") != "" {
			t.Errorf("%s: %d %v, %v", path, resp.StatusCode, resp.Header, err)
		}
		if strings.Contains(string(text), "tqserver/dev") {
			t.Errorf("%s has a script:\n%s", path, text)
		}
		return string(text)
	}
	before := open("/")
	for _, path := range []string{"client.js", "worker.js", "events", ""} {
		if got := open("/_tqserver/dev/" + path); got != before { // the page at / answers, as for any path
			t.Errorf("/_tqserver/dev/%s:\n%s", path, got)
		}
	}
	s.write("pages/index/main.go", "package main\n\nfunc main() { undefined() }\n")
	s.await("the build to fail", func() error {
		if s.page("index").Build.OK {
			return errors.New("it has not")
		}
		return nil
	})
	if got := open("/"); got != before {
		t.Errorf("after a build that failed:\n%s", got)
	}
}

// shows takes a picture of an overlay in every guise, if pictures are wanted.
func (b *browser) shows(name string) {
	b.t.Helper()
	if os.Getenv("TQSERVER_SCREENSHOTS") == "" {
		return
	}
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 390} {
			call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 844, DeviceScaleFactor: 1, Mobile: width < 600})
			b.run("scrollTo(0, 0)")
			b.screenshot(fmt.Sprint(name, scheme, width))
		}
	}
}

// awaitState listens to what browsers are told. The channel is closed when it has a text.
func (s *site) awaitState(want string) <-chan struct{} {
	s.t.Helper()
	stream := bufio.NewReader(s.fetch("/_tqserver/dev/events", nil).Body)
	if _, err := stream.ReadString('\n'); err != nil {
		s.t.Fatal(err)
	}
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		for {
			if line, err := stream.ReadString('\n'); err != nil || strings.Contains(line, want) {
				return
			}
		}
	}()
	return heard
}

// fetch asks as a program does, with headers of its own.
func (s *site) fetch(path string, header map[string]string) *http.Response {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url(path), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { resp.Body.Close() })
	return resp
}
