package linker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Defaults of Options.
const (
	DefaultSpares = 2
	DefaultMemory = 256 << 20
	DefaultIdle   = 10 * time.Minute
)

// restAfterLink is how long nothing is started after a link: its program starts then.
const restAfterLink = 300 * time.Millisecond

// Options of a Linker. Only Dir has no default.
type Options struct {
	Dir    string        // private to the package: built linkers, and files of the processes; made when it is missing
	Tools  string        // for built linkers, which other Linkers with the same directory use too; "": Dir
	Log    hclog.Logger  // nil: none
	Spares int           // processes kept at the same time; 0: DefaultSpares, less: none
	Memory int64         // bytes that they may hold together, shared pages in proportion; 0: DefaultMemory
	Idle   time.Duration // how long one is kept without use; 0: DefaultIdle
}

// Spec is all that a link depends on but the main package and the output.
type Spec struct {
	Tool      string   // the stock linker
	GOROOT    string   // of the toolchain that Tool is part of; its sources are what the preloaded linker is built from
	Go        string   // go command, for building it, where GOROOT has none
	Env       []string // of the linker, whole
	ImportCfg string   // file with all packages of the program, and modinfo; what it says never changes
	Flags     []string // but -o and -importcfg
	Dir       string   // working directory

	// Main may name the archive of a main package with the imports that the next one will have: the one that was
	// linked last. With it the first Link can be a preloaded one; without it Link has to see one first.
	Main string
}

// Linker links programs, where it can with a linker that was started before and has loaded all but main. It is safe for
// concurrent use.
type Linker struct {
	o      Options
	wake   chan struct{} // to the keeper
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	samples atomic.Int64

	mu     sync.Mutex
	keeper bool // runs
	busy   bool // it is at work
	closed bool
	run    string    // directory for files; "": not made
	links  int       // that run
	rest   time.Time // until then, and while one runs, nothing is started
	pages  map[string]*page
	proofs map[string]bool // by proofKey: whether the output was that of the stock linker
	tools  map[string]tool // by toolchain
}

// page is what is known of one key.
type page struct {
	spec     Spec      // as prepared
	pending  bool      // the keeper has not seen to it yet
	used     time.Time // by Prepare or Link, last
	set      string    // of packages, that what follows is for
	failures int       // of preloaded links in a row
	plan     string    // file that tells how to preload; "": not known
	sample   string    // a main package of its own; "": none
	spare    *spare
}

// maxFailures of preloaded links in a row end the attempts for a page, until it has other packages.
const maxFailures = 3

var errClosed = errors.New("linker: closed")

// New gives a Linker that has done and started nothing yet.
func New(o Options) *Linker {
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Spares == 0 {
		o.Spares = DefaultSpares
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.Idle == 0 {
		o.Idle = DefaultIdle
	}
	l := &Linker{o: o, wake: make(chan struct{}, 1), pages: make(map[string]*page), proofs: make(map[string]bool), tools: make(map[string]tool)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Prepare asks for a spare process for the next Link of key, in place of one for another s or for archives that changed
// since. It returns at once; what there is to do begins when no Link of any key has ended for 300 ms, at low priority.
// Nothing comes of it where there is no preloaded linker for s.
func (l *Linker) Prepare(key string, s Spec) {
	if !supported || l.o.Spares < 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	p := l.page(key)
	p.spec, p.pending = s, true
	if !l.keeper {
		l.keeper = true
		l.wg.Go(l.keep)
	}
	l.nudge()
}

// Link links the archive main into the file out, both relative to s.Dir or absolute, and tells whether a preloaded
// linker did. Where there is none for key and s, or it fails, the stock linker decides: the output is what it printed,
// and the error wraps an *exec.ExitError where it ran. When ctx ends, so do the processes, and the error is ctx's cause.
func (l *Linker) Link(ctx context.Context, key string, s Spec, main, out string) (preloaded bool, output []byte, err error) {
	l.begin()
	defer l.finish()
	if sp := l.take(key, s); sp != nil {
		output, err := sp.link(ctx, absolute(s.Dir, main), absolute(s.Dir, out))
		l.dismiss(sp)
		if ctx.Err() != nil {
			return false, nil, context.Cause(ctx)
		}
		l.note(key, err)
		if err == nil {
			l.o.Log.Debug("preloaded linker has linked", "page", key, "marks", sp.said)
			return true, output, nil
		}
		l.o.Log.Debug("preloaded linker did not link; the stock linker does", "page", key, "error", err, "output", string(output))
	}
	l.keepSample(key, s, main)
	output, err = run(ctx, stock(s, main, out))
	return false, output, err
}

// Close ends all processes and waits for them. Link goes on to work, with the stock linker.
func (l *Linker) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.wg.Wait()
	if l.run != "" {
		_ = os.RemoveAll(l.run)
	}
}

// page gives the page of key. The caller holds the lock.
func (l *Linker) page(key string) *page {
	p := l.pages[key]
	if p == nil {
		p = &page{}
		l.pages[key] = p
	}
	p.used = time.Now()
	return p
}

// drop takes the page's spare, if any, away from it. The caller holds the lock.
func (p *page) drop() *spare {
	sp := p.spare
	p.spare = nil
	return sp
}

func (p *page) forgetSample() {
	if p.sample != "" {
		_ = os.Remove(p.sample)
		p.sample = ""
	}
}

// take gives the spare for key, if it is for s as its files are now. No one else gets it.
func (l *Linker) take(key string, s Spec) *spare {
	l.mu.Lock()
	p := l.pages[key]
	if p == nil || p.spare == nil {
		l.mu.Unlock()
		return nil
	}
	p.used = time.Now()
	sp := p.drop()
	l.mu.Unlock()
	if _, mark, err := markOf(s); err != nil || mark != sp.mark || !sp.alive() {
		l.dismiss(sp)
		return nil
	}
	return sp
}

// dismiss ends a spare that no one has any more. It does not wait for it unless l is closed.
func (l *Linker) dismiss(sp *spare) {
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.wg.Go(sp.end)
	}
	l.mu.Unlock()
	if closed {
		sp.end()
	}
}

// note keeps count of how it goes with a page. A failure casts doubt on the plan.
func (l *Linker) note(key string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.page(key)
	if err == nil {
		p.failures = 0
		return
	}
	p.failures++
	p.plan = ""
	if p.failures == maxFailures {
		l.o.Log.Info("a page is linked with the stock linker until it imports other packages", "page", key, "reason", err)
	}
}

// keepSample keeps main for the plan or the proof that is still to be made.
func (l *Linker) keepSample(key string, s Spec, main string) {
	if !supported || !l.needsSample(key, s) {
		return
	}
	sample, err := l.copyOf(absolute(s.Dir, main))
	if err != nil {
		l.o.Log.Debug("no preloaded linker yet: keep main package", "page", key, "error", err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.page(key)
	p.forgetSample()
	p.sample = sample
}

func (l *Linker) needsSample(key string, s Spec) bool {
	packages, err := packagesOf(s)
	if err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pages[key]
	_, proved := l.proofs[packages.proofKey(s)]
	return !l.closed && (p == nil || p.plan == "" || p.set != packages.set || !proved)
}

// copyOf makes a link to a file, or a copy, that stays as it is.
func (l *Linker) copyOf(file string) (string, error) {
	dir, err := l.dir()
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, fmt.Sprintf("main-%d.a", l.samples.Add(1)))
	if os.Link(file, name) == nil {
		return name, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return name, os.WriteFile(name, text, 0o600)
}

// dir gives the directory for the files of this Linker's processes. The first call makes it, and removes those of
// processes that are gone.
func (l *Linker) dir() (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.run != "" {
		return l.run, nil
	}
	if l.closed {
		return "", errClosed
	}
	if err := os.MkdirAll(l.o.Dir, 0o700); err != nil {
		return "", err
	}
	old, _ := filepath.Glob(filepath.Join(l.o.Dir, "run-*"))
	for _, path := range old {
		var pid int
		if n, _ := fmt.Sscanf(filepath.Base(path), "run-%d-", &pid); n == 1 && !runs(pid) {
			_ = os.RemoveAll(path)
		}
	}
	run, err := os.MkdirTemp(l.o.Dir, fmt.Sprintf("run-%d-", os.Getpid()))
	l.run = run
	return run, err
}

func (l *Linker) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.links++
}

func (l *Linker) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.links--
	l.rest = time.Now().Add(restAfterLink)
	l.nudge()
}

func (l *Linker) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
