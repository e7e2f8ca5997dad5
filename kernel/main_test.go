package kernel

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/proxy"
	"github.com/tqserver/tqserver/kernel/spool"
	"github.com/tqserver/tqserver/sdk"
)

// TestMain lets the test binary be a worker, too.
func TestMain(m *testing.M) {
	if mode := os.Getenv("KERNEL_TEST_WORKER"); mode != "" {
		beWorker(mode)
		return
	}
	switch os.Getenv("KERNEL_TEST_PLUGIN") {
	case "":
	case "actor":
		sdk.Serve("actor", "1", actor{})
		return
	case "stuck":
		sdk.Serve("stuck", "1", stuckBuilder{})
		return
	default:
		sdk.Serve("dying", "1", dyingBuilder{})
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/tqserver/tqserver/kernel/process.starter"))
}

// dyingBuilder is brought down by every build.
type dyingBuilder struct{}

func (dyingBuilder) Build(context.Context, sdk.Job, func(sdk.Event)) (sdk.Result, error) {
	os.Exit(7)
	return sdk.Result{}, nil
}

// stuckBuilder never ends a build by itself.
type stuckBuilder struct{}

func (stuckBuilder) Build(ctx context.Context, _ sdk.Job, _ func(sdk.Event)) (sdk.Result, error) {
	<-ctx.Done()
	return sdk.Result{}, ctx.Err()
}

// beWorker is a page: "serve", "fail" ends at once, "brief" ends 200 ms after it was ready, "mute" is never ready,
// "reader" wants to know of changed files, "broken" answers with 500, "lone" bears no other of its kind, "gated" ends at once while there is a
// file shut, and the first that finds a file trap is never ready. At /crash it ends; at /slow it goes on until the
// client leaves.
func beWorker(mode string) {
	switch mode {
	case "fail":
		fmt.Fprintln(os.Stderr, "cannot go on")
		os.Exit(3)
	case "mute":
		time.Sleep(time.Hour)
	case "reader":
		beReader()
	case "gated":
		if os.Remove("trap") == nil {
			time.Sleep(time.Hour)
		}
		if _, err := os.Stat("shut"); err == nil {
			os.Exit(8)
		}
	case "lone":
		if _, err := os.OpenFile("lone", os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			os.Exit(7)
		}
	}
	lis, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("TQ_PORT"))
	if err != nil {
		os.Exit(4)
	}
	if mode == "brief" {
		time.AfterFunc(200*time.Millisecond, func() { os.Exit(5) })
	}
	_, _ = os.NewFile(3, "ready").Write([]byte{1})
	_ = http.Serve(lis, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/slow":
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case r.URL.Path == "/crash":
			fmt.Fprintln(os.Stderr, "lost my marbles")
			os.Exit(6)
		case mode == "broken":
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprintln(w, mode)
	}))
}

// testKernel is a kernel without plugins, whose pages the test drives itself.
func testKernel(t testing.TB, change ...func(*config.Config)) *Kernel {
	t.Helper()
	root := t.TempDir()
	c := config.Default()
	c.Workers.PortRangeStart, c.Workers.PortRangeEnd = freePorts(t)
	for _, f := range change {
		f(c)
	}
	up, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	k := &Kernel{up: up, stop: stop, started: time.Now()}
	k.cut, k.cutNow = context.WithCancel(context.Background())
	t.Cleanup(k.cutNow)
	k.cfg.Store(c)
	k.state.Store(ptr("starting"))
	k.site = &site{root: root, state: root, run: root}
	k.site.releases.Store(ptr(filepath.Join(root, "bin")))
	if err := os.Mkdir(filepath.Join(root, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	if k.spool, err = spool.New(spool.Options{Dir: root, Log: t.Logf}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.spool.Close() })
	k.console = newConsole(nil, false)
	k.log = hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Off})
	k.ports = newPorts(c.Workers.PortRangeStart, c.Workers.PortRangeEnd)
	k.good = loadGoodReleases(k.site.path("releases.json"))
	k.routes, k.files = newRoutes(), newFiles(k)
	k.proxy = proxy.New(proxy.Options{})
	k.stages = &stages{k: k}
	return k
}

// freePorts finds a few neighbouring ports on which nothing listens, below those that the system gives to clients.
func freePorts(t testing.TB) (start, end int) {
	t.Helper()
	for range 100 {
		start := 10050 + 100*rand.IntN(200)
		if lis, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", start)); err == nil {
			lis.Close()
			return start, start + 20
		}
	}
	t.Fatal("no free range of ports")
	return 0, 0
}

// testPage is a page whose mail the test handles. At the end it is taken down.
func testPage(t *testing.T, k *Kernel, name string) *page {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	dir := k.site.abs("pages/" + name)
	p := newPage(ctx, k, sdk.Route{Page: name, Path: "/" + name, Dir: dir, Source: dir})
	k.routes.pages[name], k.routes.cancels[name] = p, cancel
	t.Cleanup(func() { cancel(); p.takeDown() })
	return p
}

// until handles the page's mail until ok.
func (p *page) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.After(15 * time.Second)
	for !ok() {
		select {
		case <-p.mail.wake:
			p.handle()
		case <-late:
			t.Fatalf("waited for %s in vain: state %s, error %q", what, p.state(), p.trouble())
		}
	}
}

// testRelease is a release that runs this test binary as a worker.
func testRelease(t *testing.T, id, mode string) release {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return release{ID: id, Artifact: self, Argv: []string{self}, Env: map[string]string{"KERNEL_TEST_WORKER": mode}}
}

// builtAs is the report of a build that made r.
func builtAs(r release, inputs ...sdk.Input) *buildReport {
	return &buildReport{at: time.Now(), result: sdk.Result{OK: true, Release: r.ID, Artifact: r.Artifact, SHA256: selfSum(), Argv: r.Argv, Env: r.Env, Inputs: inputs}}
}

// selfSum is that of this test binary.
var selfSum = sync.OnceValue(func() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	sum, _ := fileSum(self)
	return sum
})

// serveRelease makes a release live, as a save does.
func (p *page) serveRelease(t *testing.T, r release) {
	t.Helper()
	p.changedAt = time.Now()
	p.releaseBuilt(builtAs(r), nil)
	p.until(t, "release "+r.ID, func() bool { return p.current != nil && p.current.release.ID == r.ID && p.candidate == nil })
}
