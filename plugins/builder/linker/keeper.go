package linker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// keep starts and ends spares until l is closed: one goroutine, one thing at a time.
func (l *Linker) keep() {
	runtime.LockOSThread() // the operating system ends the spares when the thread that started them does
	defer runtime.UnlockOSThread()
	defer l.endAll()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
		}
		timer.Reset(l.step(time.Now()))
	}
}

// step does the next thing there is to do and tells when to look again.
func (l *Linker) step(now time.Time) time.Duration {
	next := l.expire(now)
	l.mu.Lock()
	wait, links := l.rest.Sub(now), l.links
	key := l.nextPage()
	l.mu.Unlock()
	if key == "" || links > 0 { // a link that ends wakes the keeper
		return next
	}
	if wait > 0 {
		return wait
	}
	l.serve(key)
	return 0
}

// expire forgets the pages that were not used for long, and tells when the next will be one.
func (l *Linker) expire(now time.Time) time.Duration {
	l.mu.Lock()
	var old []*spare
	next := l.o.Idle
	for key, p := range l.pages {
		left := l.o.Idle - now.Sub(p.used)
		if left > 0 {
			next = min(next, left)
			continue
		}
		p.forgetSample()
		delete(l.pages, key)
		if p.spare != nil {
			old = append(old, p.spare)
		}
	}
	l.mu.Unlock()
	for _, sp := range old {
		sp.end()
	}
	return next
}

// nextPage gives the page that was used last of those that wait for the keeper. The caller holds the lock.
func (l *Linker) nextPage() (next string) {
	for key, p := range l.pages {
		if p.pending && (next == "" || p.used.After(l.pages[next].used)) {
			next = key
		}
	}
	return next
}

// serve sees to it that there is a spare for a page, if there can be one.
func (l *Linker) serve(key string) {
	l.mu.Lock()
	p := l.pages[key]
	p.pending, l.busy = false, true
	s := p.spec
	l.mu.Unlock()
	defer l.rested()
	if err := l.spareFor(key, p, s); err != nil && l.ctx.Err() == nil {
		l.o.Log.Debug("no preloaded linker for a page", "page", key, "reason", err)
	}
}

func (l *Linker) rested() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy = false
}

// Settled tells whether all is done that Prepare asked for, as far as it can be.
func (l *Linker) Settled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.busy && l.nextPage() == ""
}

func (l *Linker) spareFor(key string, p *page, s Spec) error {
	packages, mark, err := markOf(s)
	if l.keepsSpare(p, mark) || err != nil {
		return err
	}
	tool, err := l.tool(s)
	if err != nil {
		return err
	}
	plan, err := l.planFor(p, packages, tool, s)
	if err != nil {
		return err
	}
	if proved, err := l.prove(p, packages, tool, plan, s); err != nil {
		l.note(key, err)
		return err
	} else if !proved {
		return errUnproved
	}
	sp, err := l.start(tool, plan, s, mark)
	if err != nil {
		l.note(key, err)
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p.spare = sp
	return nil
}

// keepsSpare tells whether the page has the spare that it needs. Another one is ended.
func (l *Linker) keepsSpare(p *page, mark string) bool {
	l.mu.Lock()
	sp := p.spare
	keeps := sp != nil && sp.mark == mark && sp.alive()
	if !keeps {
		p.spare = nil
	}
	l.mu.Unlock()
	if sp != nil && !keeps {
		sp.end()
	}
	return keeps
}

// planFor gives the file that tells how to preload for the page. It is made from a main package that the page had.
func (l *Linker) planFor(p *page, packages packages, tool string, s Spec) (string, error) {
	l.mu.Lock()
	if p.set != packages.set {
		p.set, p.plan, p.failures = packages.set, "", 0
	}
	plan, failures, main := p.plan, p.failures, p.main()
	l.mu.Unlock()
	switch {
	case failures >= maxFailures:
		return "", errors.New("it failed too often")
	case plan != "":
		return plan, nil
	case main == "":
		return "", errors.New("no program was linked yet")
	}
	cmd := exec.Command(tool, linkArgs(s, "-preload=describe", os.DevNull, main)...)
	cmd.Dir, cmd.Env = s.Dir, s.Env
	text, err := runLow(l.ctx, cmd)
	if err != nil {
		return "", fmt.Errorf("describe main package: %w", err)
	}
	dir, err := l.dir()
	if err != nil {
		return "", err
	}
	plan = filepath.Join(dir, "plan-"+hashOf(string(text))[:32])
	if err := os.WriteFile(plan, text, 0o600); err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p.plan = plan
	return plan, nil
}

// main gives a main package of the page, the newest there is. The caller holds the lock.
func (p *page) main() string {
	if p.sample != "" || p.spec.Main == "" {
		return p.sample
	}
	return absolute(p.spec.Dir, p.spec.Main)
}

var errUnproved = errors.New("it does not link as the stock linker does, or that is not known yet")

// prove links one program with both linkers and compares the outputs, before the first link of its kind counts.
func (l *Linker) prove(p *page, packages packages, tool, plan string, s Spec) (bool, error) {
	key := packages.proofKey(s)
	l.mu.Lock()
	good, known := l.proofs[key]
	main := p.main()
	l.mu.Unlock()
	if !known && main == "" {
		return false, nil
	}
	if !known {
		var err error
		if good, err = l.compare(tool, plan, s, main); err != nil {
			return false, fmt.Errorf("prove preloaded linker: %w", err)
		}
		if !good {
			l.o.Log.Warn("the preloaded linker's output differs from that of the stock linker, which is used instead; please report this with the packages of the program",
				"tool", s.Tool, "flags", s.Flags)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proofs[key] = good
	p.forgetSample()
	return good, nil
}

// compare tells whether both linkers make the same of main.
func (l *Linker) compare(tool, plan string, s Spec, main string) (bool, error) {
	dir, err := l.dir()
	if err != nil {
		return false, err
	}
	theirs, ours := filepath.Join(dir, "stock"), filepath.Join(dir, "preloaded")
	defer os.Remove(theirs)
	defer os.Remove(ours)
	sp, err := l.start(tool, plan, s, "")
	if err != nil {
		return false, err
	}
	lowerPriority(sp.cmd.Process.Pid)
	printed, err := sp.link(l.ctx, main, ours)
	sp.end()
	if err != nil {
		return false, fmt.Errorf("%w: %s", err, printed)
	}
	if printed, err := runLow(l.ctx, stock(s, main, theirs)); err != nil {
		return false, fmt.Errorf("%w: %s", err, printed)
	}
	a, err := os.ReadFile(theirs)
	if err != nil {
		return false, err
	}
	b, err := os.ReadFile(ours)
	return bytes.Equal(a, b), err
}

// start starts a spare, within the bounds of number and memory: those of the pages that were used the longest ago make
// room.
func (l *Linker) start(tool, plan string, s Spec, mark string) (*spare, error) {
	dir, err := l.dir()
	if err != nil {
		return nil, err
	}
	for len(l.spares()) >= l.o.Spares && l.endOldest() {
	}
	ctx, cancel := context.WithTimeout(l.ctx, readyLimit)
	defer cancel()
	sp, err := startSpare(ctx, &l.wg, tool, plan, dir, s, mark)
	if err != nil {
		return nil, err
	}
	for {
		sum, err := memoryOfAll(append(l.spares(), sp))
		if err == nil && sum <= l.o.Memory {
			return sp, nil
		}
		if err == nil && l.endOldest() {
			continue
		}
		sp.end()
		if err == nil {
			err = fmt.Errorf("it takes %d MiB of memory, of %d MiB for all", sum>>20, l.o.Memory>>20)
		}
		return nil, err
	}
}

func (l *Linker) spares() (all []*spare) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.pages {
		if p.spare != nil {
			all = append(all, p.spare)
		}
	}
	return all
}

// endOldest ends the spare whose page was used the longest ago, and tells whether there was one.
func (l *Linker) endOldest() bool {
	l.mu.Lock()
	var oldest *page
	for _, p := range l.pages {
		if p.spare != nil && (oldest == nil || p.used.Before(oldest.used)) {
			oldest = p
		}
	}
	if oldest == nil {
		l.mu.Unlock()
		return false
	}
	sp := oldest.spare
	oldest.spare = nil
	l.mu.Unlock()
	sp.end()
	return true
}

// endAll ends all spares, and the keeper.
func (l *Linker) endAll() {
	for l.endOldest() {
	}
}

func memoryOfAll(spares []*spare) (sum int64, err error) {
	for _, sp := range spares {
		n, err := memoryOf(sp.cmd.Process.Pid)
		if err != nil && sp.alive() {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
