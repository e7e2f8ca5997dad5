//go:build linux

package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser is one tab of a real Chromium. With TQSERVER_SCREENSHOTS=DIR it leaves pictures of what it saw there.
type browser struct {
	t   *testing.T
	s   *site
	ctx context.Context

	mu       sync.Mutex
	troubles []string
	expected []string // parts of them
}

// findChromium skips the test where there is none, and fails it on a machine that is for tests.
func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const why = "no Chromium is installed, so the pages were not looked at: `make browser` installs it"
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
	return ""
}

// openBrowser starts a browser for the pages of a site. At the end of the test it must have had no trouble.
func openBrowser(t *testing.T, s *site) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(findChromium(t)), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.WSURLReadTimeout(patience))
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience) // a bound, for a day in it
	t.Cleanup(cancel)
	ctx, stop := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(ctx)
	b := &browser{t: t, s: s, ctx: ctx}
	t.Cleanup(func() {
		b.check()
		closeTab()
	})
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		t.Fatalf("start %v: %v", findChromium(t), err)
	}
	call(b, network.Enable, network.EnableParams{})
	call(b, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
		Source: `addEventListener("securitypolicyviolation", e => console.error("policy violated: " + e.violatedDirective + " " + e.blockedURI))`})
	return b
}

// listen notes what a developer would see in red.
func (b *browser) listen(event any) {
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.trouble("exception: %s", e.ExceptionDetails.Text)
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			for _, arg := range e.Args {
				b.trouble("console: %s %s", arg.Value, arg.Description)
			}
		}
	case *log.EventEntryAdded:
		icon := strings.HasSuffix(e.Entry.URL, "/favicon.ico") // asked for by the browser, not by the page
		if !icon && (e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning) {
			b.trouble("log: %s %s", e.Entry.Text, e.Entry.URL)
		}
	case *network.EventLoadingFailed:
		if !e.Canceled {
			b.trouble("load: %s %s", e.Type, e.ErrorText)
		}
	}
}

func (b *browser) trouble(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.troubles = append(b.troubles, fmt.Sprintf(format, args...))
}

// expects tells of trouble that the test brings about itself. A browser may tell of it late.
func (b *browser) expects(parts ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expected = append(b.expected, parts...)
}

func (b *browser) check() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, text := range b.troubles {
		if slices.ContainsFunc(b.expected, func(part string) bool { return strings.Contains(text, part) }) {
			continue
		}
		b.t.Errorf("the browser reports %s", text)
	}
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatalf("browser: %v", err)
	}
}

// call gives the browser a command of its protocol.
func call[P, R any](b *browser, command cdp.Command[P, R], params P) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, command, params); err != nil {
		b.t.Fatalf("browser: %s: %v", command.Method, err)
	}
}

// open goes to a path, which must be answered with 200.
func (b *browser) open(path string) {
	b.t.Helper()
	res, err := chromedp.RunResponse(b.ctx, chromedp.Navigate(b.s.url(path)))
	if err != nil || res.Status != 200 {
		b.t.Fatalf("open %s: %+v, %v", path, res, err)
	}
}

// text is what an element shows.
func (b *browser) text(selector string) (string, error) {
	text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector)))
	return strings.TrimSpace(text), err
}

func (b *browser) awaitText(selector, want string) {
	b.t.Helper()
	b.s.await(selector+" to show "+want, func() error {
		got, err := b.text(selector)
		if err == nil && !strings.Contains(got, want) {
			err = fmt.Errorf("it shows %q", got)
		}
		return err
	})
}

// looks opens a path as light and dark, wide and narrow: the scheme is followed, nothing sticks out.
func (b *browser) looks(path string) {
	b.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 390} {
			call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 844, DeviceScaleFactor: 1, Mobile: width < 600})
			b.open(path)
			got, err := chromedp.Run(b.ctx, chromedp.Evaluate[measures](measure))
			if err != nil {
				b.t.Fatalf("measure %s: %v", path, err)
			}
			name := fmt.Sprintf("%s %s %d", path, scheme, width)
			if got.Width > width {
				b.t.Errorf("%s: the page is %d px wide", name, got.Width)
			}
			if got.Dark != (scheme == "dark") {
				b.t.Errorf("%s: the background is dark: %v", name, got.Dark)
			}
			for _, what := range got.Small {
				b.t.Errorf("%s: %s is hard to read", name, what)
			}
			b.screenshot(name)
		}
	}
}

// measures is what measure gives.
type measures struct {
	Width int64
	Dark  bool
	Small []string
}

// measure is what a page looks like. Text is hard to read below a contrast of 4.5, as WCAG 2.2 has it, or 12 px.
const measure = `(() => {
	const light = (color) => {
		const [r, g, b] = color.match(/[\d.]+/g).map(Number).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
		return .2126 * r + .7152 * g + .0722 * b;
	};
	const ground = (e) => {
		for (; e; e = e.parentElement) {
			const color = getComputedStyle(e).backgroundColor;
			if (!/, 0\)$/.test(color)) return light(color);
		}
		return matchMedia("(prefers-color-scheme: dark)").matches ? 0 : 1;
	};
	const small = [];
	for (const e of document.body.querySelectorAll("*")) {
		if (![...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim()) || !e.getClientRects().length) continue;
		const style = getComputedStyle(e), a = light(style.color), b = ground(e);
		const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
		if (contrast < 4.5 || parseFloat(style.fontSize) < 12)
			small.push(e.tagName + " " + e.textContent.trim().slice(0, 30) + " " + contrast.toFixed(1) + " " + style.fontSize);
	}
	return {Width: document.documentElement.scrollWidth, Dark: ground(document.body) < .5, Small: small};
})()`

func (b *browser) screenshot(name string) {
	b.t.Helper()
	dir := os.Getenv("TQSERVER_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatalf("screenshot: %v", err)
	}
	file := strings.Trim(strings.NewReplacer("/", "_", " ", "-", "?", "_").Replace(b.t.Name()+name), "_") + ".png"
	if err := os.WriteFile(filepath.Join(dir, file), png, 0o644); err != nil {
		b.t.Error(err)
	}
}

// sources gives the pages of this repository, without their tests.
func sources(t *testing.T) map[string]string {
	t.Helper()
	root := os.DirFS("../..")
	files := map[string]string{}
	err := fs.WalkDir(root, "pages", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := fs.ReadFile(root, name)
		files[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestBrowser looks at the pages of this repository as a visitor does, and edits them as a developer does.
func TestBrowser(t *testing.T) {
	findChromium(t)
	files := sources(t)
	s := newSite(t, files)
	s.start()
	b := openBrowser(t, s)
	b.looks("/")
	b.looks("/events")
	if _, err := exec.LookPath("node"); err == nil {
		b.looks("/node")
	}

	b.open("/events")
	b.awaitText("#state", "live")
	first, _ := b.text("#clock")
	b.s.await("the clock to go on", func() error {
		now, err := b.text("#clock")
		if err == nil && (now == first || len(now) != len("00:00:00")) {
			err = fmt.Errorf("it shows %q", now)
		}
		return err
	})
	s.write("pages/events/main.go", files["pages/events/main.go"]+"\nconst edited = true\n")
	b.awaitText("#news", "New release")
	b.screenshot("events-news")
	b.do(chromedp.Click(chromedp.CSS("#news a")), chromedp.WaitNotPresent(chromedp.CSS("#news a")))
	b.awaitText("#state", "live")

	b.open("/")
	b.awaitText("h1", "It is live.")
	s.write("pages/index/main.go", strings.Replace(files["pages/index/main.go"], `"It is live."`, `"Hello from the test."`, 1))
	s.awaitBodyHas("/", "Hello from the test.")
	b.do(chromedp.Reload())
	b.awaitText("h1", "Hello from the test.")
	b.do(chromedp.Click(chromedp.CSS(`.pages a[href="/api"]`)))
	b.awaitText("body", `"release"`)
}

// TestBrowserNewSite looks at what `tqserver new` makes.
func TestBrowserNewSite(t *testing.T) {
	findChromium(t)
	content, err := siteContent("site")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for name, text := range content {
		if strings.HasPrefix(name, "pages/") {
			files[name] = string(text)
		}
	}
	s := newSite(t, files)
	s.start()
	b := openBrowser(t, s)
	b.looks("/")
	b.do(chromedp.Click(chromedp.CSS(`a[href^="/hello"]`)))
	b.awaitText("body", "Hello, you!")
	s.write("pages/index/main.go", strings.Replace(files["pages/index/main.go"], "Hello from your site.", "Hello from the test.", 1))
	s.awaitBodyHas("/", "Hello from the test.")
	b.open("/")
	b.awaitText("h1", "Hello from the test.")
}

// awaitBodyHas waits until a path answers with a text among others.
func (s *site) awaitBodyHas(path, want string) {
	s.t.Helper()
	s.await(path+" to have "+want, func() error {
		_, body, err := s.get(path)
		if err == nil && !strings.Contains(body, want) {
			err = fmt.Errorf("it answers %q", tail(body, 200))
		}
		return err
	})
}
