package stagetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

const (
	debounce    = 50 * time.Millisecond
	changeLimit = 10 * time.Second // from a change to its report: polling takes time
	stormWrites = 50
	manyFiles   = 10_000
)

func watcherChecks() []check {
	c := func(name, doc, hint string, run func(context.Context, *trial) error) check {
		return check{suite: "watcher", name: name, doc: doc, hint: see(hint, "watcher"), run: run}
	}
	return []check{
		c("first", "a set is answered with the difference to what is known, and rescan", "compare the files with WatchSet.known and send one ChangeSet with rescan=true, empty or not", checkFirstSet),
		c("known", "a set of which everything is known is answered with an empty difference", "send the first ChangeSet of a set also when nothing differs: the kernel waits for it", checkKnownSet),
		c("digest", "digests are SHA-256 of the content", "send the lower-case hex SHA-256 of the whole file", checkDigest),
		c("changes", "a file that is made, edited, renamed and removed is reported with the right op", "compare with what is known: created, modified, removed; a rename is removed and created", checkChanges),
		c("down", "an edit while the watcher was down is reported by the next one", "what counts is the difference to WatchSet.known, not events", checkWhileDown),
		c("storm", "50 quick saves end in the last content, and in few reports", "wait until nothing happened for debounce_ms, then report once", checkStorm),
		c("unchanged", "a save without a change is not reported", "compare digests: a file that is written anew with the same content did not change", checkUnchanged),
		c("ignored", "what matches an ignore pattern is not reported", "ignore is a list of patterns for names, and for paths relative to a root", checkIgnored),
		c("later", "a root that is made later is watched", "roots need not exist when a set arrives", checkLaterRoot),
		c("replaced", "a new set replaces the one before", "the newest set counts alone; reports carry its version", checkReplacedSet),
		c("large", "a set with 10,000 known files is read, and 10,000 changes are reported", "join the parts of lists that come with more=true, and send long lists in parts", checkLargeSet),
	}
}

// watching is an open stream with a watcher. It knows what was reported, as the kernel does.
type watching struct {
	*stream[sdk.WatchSet, sdk.ChangeSet]
	set     sdk.WatchSet
	reports int                   // so far
	ops     map[string]sdk.Change // of each path, since it was last waited for: a new file that is edited is still new
	seen    []sdk.Change
	edits   int
}

func (t *trial) watch(ctx context.Context, s *subject, root string) *watching {
	w := &watching{ops: map[string]sdk.Change{}, set: sdk.WatchSet{Roots: []string{root}, Debounce: debounce, Known: map[string]string{}}}
	w.stream = openStream(ctx, t, sdk.NewWatcher(s.conn).Watch)
	return w
}

// start sends a new set and waits for the difference.
func (w *watching) start(ctx context.Context) (first sdk.ChangeSet, err error) {
	w.set.Version++
	if err := w.send(ctx, w.set); err != nil {
		return first, err
	}
	defer func() { w.ops = map[string]sdk.Change{} }()
	want := fmt.Sprintf("the first report of set %d", w.set.Version)
	return first, w.await(ctx, changeLimit, want, func(c sdk.ChangeSet) (bool, error) {
		w.take(c)
		first = c
		if c.Version == w.set.Version && !c.Rescan {
			return false, errors.New("the first report of a set has not rescan=true")
		}
		return c.Version == w.set.Version, nil
	})
}

func (w *watching) take(c sdk.ChangeSet) {
	w.reports++
	w.seen = append(w.seen, c.Changes...)
	for _, change := range c.Changes {
		if change.Op == sdk.Modified && w.ops[change.Path].Op == sdk.Created {
			change.Op = sdk.Created // what was reported first was a part of it
		}
		w.ops[change.Path] = change
	}
}

// until takes reports until the newest about a path has this op and, unless the file was removed, its digest.
func (w *watching) until(ctx context.Context, path string, op sdk.Op) error {
	digest := ""
	if op != sdk.Removed {
		var err error
		if digest, err = sdk.FileDigest(path); err != nil {
			return err
		}
	}
	want := fmt.Sprintf("the report that %s was %s", filepath.Base(path), op)
	err := w.await(ctx, changeLimit, want, func(c sdk.ChangeSet) (bool, error) {
		w.take(c)
		got, ok := w.ops[path]
		return ok && got.Digest == digest && got.Op == op, nil
	})
	got, ok := w.ops[path]
	delete(w.ops, path)
	if ok && err != nil {
		return fmt.Errorf("%w; the last about it was: %s, digest %q", err, got.Op, got.Digest)
	}
	return err
}

// exchange makes a file and waits for its report.
func (w *watching) exchange(ctx context.Context) error {
	if w.set.Version == 0 {
		if _, err := w.start(ctx); err != nil {
			return err
		}
	}
	w.edits++
	path, err := write(w.set.Roots[0], fmt.Sprintf("edit%d.go", w.edits), fmt.Sprintf("package edit%d\n", w.edits))
	if err != nil {
		return err
	}
	return w.until(ctx, path, sdk.Created)
}

func openWatcher(ctx context.Context, t *trial, s *subject) (session, error) {
	root := filepath.Join(t.dir, fmt.Sprintf("tree%d", t.next()))
	return t.watch(ctx, s, root), os.Mkdir(root, 0o755)
}

// watcher starts a plugin and opens a stream for a directory with some files.
func (t *trial) watcher(ctx context.Context) (w *watching, root string, err error) {
	s, err := t.ready(ctx)
	if err != nil {
		return nil, "", err
	}
	root = filepath.Join(t.dir, "tree")
	if err := writeAll(root, map[string]string{"a.go": "package a\n", "sub/b.go": "package b\n"}); err != nil {
		return nil, "", err
	}
	w = t.watch(ctx, s, root)
	t.closers = append(t.closers, w.close)
	return w, root, nil
}

// knows makes files known to the set, with the content that they have.
func (w *watching) knows(paths ...string) error {
	for _, path := range paths {
		digest, err := sdk.FileDigest(path)
		if err != nil {
			return err
		}
		w.set.Known[path] = digest
	}
	return nil
}

// want is an error when a set of changes differs from path -> op.
func (w *watching) want(got sdk.ChangeSet, ops map[string]sdk.Op) error {
	found := map[string]sdk.Op{}
	for _, c := range got.Changes {
		if _, twice := found[c.Path]; twice {
			return fmt.Errorf("%s is in one report twice", c.Path)
		}
		found[c.Path] = c.Op
		if ops[c.Path] != c.Op {
			return fmt.Errorf("%s was reported as %s, want %s", c.Path, c.Op, opName(ops[c.Path]))
		}
	}
	for path, op := range ops {
		if found[path] != op {
			return fmt.Errorf("%s was not reported, want %s", path, op)
		}
	}
	return nil
}

func opName(op sdk.Op) string {
	if op == 0 {
		return "no report"
	}
	return op.String()
}

func checkFirstSet(ctx context.Context, t *trial) error {
	w, root, err := t.watcher(ctx)
	if err != nil {
		return err
	}
	a, b, gone := filepath.Join(root, "a.go"), filepath.Join(root, "sub", "b.go"), filepath.Join(root, "gone.go")
	w.set.Known[b] = "0000" // not what it is
	w.set.Known[gone] = "0001"
	got, err := w.start(ctx)
	if err != nil {
		return err
	}
	return w.want(got, map[string]sdk.Op{a: sdk.Created, b: sdk.Modified, gone: sdk.Removed})
}

func checkKnownSet(ctx context.Context, t *trial) error {
	w, root, err := t.watcher(ctx)
	if err != nil {
		return err
	}
	if err := w.knows(filepath.Join(root, "a.go"), filepath.Join(root, "sub", "b.go")); err != nil {
		return err
	}
	got, err := w.start(ctx)
	if err != nil {
		return err
	}
	return w.want(got, nil)
}

func checkDigest(ctx context.Context, t *trial) error {
	w, root, err := t.watcher(ctx)
	if err != nil {
		return err
	}
	if _, err := write(root, "empty.txt", ""); err != nil {
		return err
	}
	got, err := w.start(ctx)
	if err != nil {
		return err
	}
	for _, c := range got.Changes {
		want, err := sdk.FileDigest(c.Path)
		if err != nil {
			return err
		}
		if c.Digest != want {
			return fmt.Errorf("the digest of %s is %q, want %q", filepath.Base(c.Path), c.Digest, want)
		}
	}
	if len(got.Changes) != 3 {
		return fmt.Errorf("of 3 new files %d were reported", len(got.Changes))
	}
	return nil
}

func checkChanges(ctx context.Context, t *trial) error {
	w, root, err := t.watcher(ctx)
	if err != nil {
		return err
	}
	if _, err := w.start(ctx); err != nil {
		return err
	}
	a, b := filepath.Join(root, "a.go"), filepath.Join(root, "sub", "b.go")
	moved, made := filepath.Join(root, "sub", "moved.go"), filepath.Join(root, "new", "dir", "made.go")
	for _, step := range []struct {
		do   func() error
		want map[string]sdk.Op
	}{
		{func() error { _, err := write(root, "a.go", "package a // edited\n"); return err }, map[string]sdk.Op{a: sdk.Modified}},
		{func() error { _, err := write(root, "new/dir/made.go", "package made\n"); return err }, map[string]sdk.Op{made: sdk.Created}},
		{func() error { return os.Rename(b, moved) }, map[string]sdk.Op{b: sdk.Removed, moved: sdk.Created}},
		{func() error { return os.RemoveAll(filepath.Join(root, "new")) }, map[string]sdk.Op{made: sdk.Removed}},
	} {
		if err := step.do(); err != nil {
			return err
		}
		for path, op := range step.want {
			if w.ops[path].Op == op {
				continue // it came with the other
			}
			if err := w.until(ctx, path, op); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkWhileDown(ctx context.Context, t *trial) error {
	w, root, err := t.watcher(ctx)
	if err != nil {
		return err
	}
	a, b := filepath.Join(root, "a.go"), filepath.Join(root, "sub", "b.go")
	if err := w.knows(a, b); err != nil {
		return err
	}
	if _, err := w.start(ctx); err != nil {
		return err
	}
	t.subjects[0].proc.killAll()
	if _, err := write(root, "a.go", "package a // edited meanwhile\n"); err != nil {
		return err
	}
	if err := os.Remove(b); err != nil {
		return err
	}
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	next := t.watch(ctx, s, root)
	defer next.close()
	next.set.Known = w.set.Known
	got, err := next.start(ctx)
	if err != nil {
		return err
	}
	return next.want(got, map[string]sdk.Op{a: sdk.Modified, b: sdk.Removed})
}

func checkStorm(ctx context.Context, t *trial) error {
	w, root, err := t.watcher(ctx)
	if err != nil {
		return err
	}
	w.set.Debounce = 4 * debounce // the writes are quicker than that
	if _, err := w.start(ctx); err != nil {
		return err
	}
	reports, a := w.reports, filepath.Join(root, "a.go")
	for i := range stormWrites {
		temp, err := write(root, "a.go.tmp", fmt.Sprintf("package a // save %d\n", i))
		if err == nil {
			err = os.Rename(temp, a)
		}
		if err != nil {
			return err
		}
	}
	if err := w.until(ctx, a, sdk.Modified); err != nil {
		return err
	}
	if n := w.reports - reports; n > stormWrites/5 {
		return fmt.Errorf("%d quick saves were reported %d times", stormWrites, n)
	}
	return nil
}

func checkUnchanged(ctx context.Context, t *trial) error {
	w, root, err := t.watcher(ctx)
	if err != nil {
		return err
	}
	if _, err := w.start(ctx); err != nil {
		return err
	}
	w.seen = nil
	a := filepath.Join(root, "a.go")
	if err := rewrite(a, "package a\n"); err != nil {
		return err
	}
	temp, err := write(t.dir, "same.go", "package a\n")
	if err == nil {
		err = os.Rename(temp, a)
	}
	if err != nil {
		return err
	}
	return w.notReported(ctx, a)
}

// rewrite writes over a file without making it empty first, which a watcher may see and report.
func rewrite(path, content string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

// notReported makes another change, waits for its report, and looks for paths that should not be reported.
func (w *watching) notReported(ctx context.Context, paths ...string) error {
	if err := w.exchange(ctx); err != nil {
		return err
	}
	for _, c := range w.seen {
		for _, path := range paths {
			if c.Path == path {
				return fmt.Errorf("%s was reported as %s", filepath.Base(path), c.Op)
			}
		}
	}
	return nil
}

func checkIgnored(ctx context.Context, t *trial) error {
	w, root, err := t.watcher(ctx)
	if err != nil {
		return err
	}
	w.set.Ignore = []string{"*.skip", "skipped", "sub/only/**"}
	if _, err := w.start(ctx); err != nil {
		return err
	}
	ignored := map[string]string{"x.skip": "x", "sub/y.skip": "y", "skipped/z.go": "z", "sub/only/deep/v.go": "v"}
	if err := writeAll(root, ignored); err != nil {
		return err
	}
	var paths []string
	for name := range ignored {
		paths = append(paths, filepath.Join(root, filepath.FromSlash(name)))
	}
	return w.notReported(ctx, paths...)
}

func checkLaterRoot(ctx context.Context, t *trial) error {
	w, root, err := t.watcher(ctx)
	if err != nil {
		return err
	}
	later := filepath.Join(t.dir, "later")
	w.set.Roots = append(w.set.Roots, later)
	if _, err := w.start(ctx); err != nil {
		return err
	}
	path, err := write(later, "deep/c.go", "package c\n")
	if err != nil {
		return err
	}
	if err := w.until(ctx, path, sdk.Created); err != nil {
		return err
	}
	if _, err := write(root, "a.go", "package a // still watched\n"); err != nil {
		return err
	}
	return w.until(ctx, filepath.Join(root, "a.go"), sdk.Modified)
}

func checkReplacedSet(ctx context.Context, t *trial) error {
	w, root, err := t.watcher(ctx)
	if err != nil {
		return err
	}
	if _, err := w.start(ctx); err != nil {
		return err
	}
	other := filepath.Join(t.dir, "other")
	c, err := write(other, "c.go", "package c\n")
	if err != nil {
		return err
	}
	w.set.Roots, w.set.Known = []string{other}, map[string]string{}
	got, err := w.start(ctx)
	if err != nil {
		return err
	}
	if err := w.want(got, map[string]sdk.Op{c: sdk.Created}); err != nil {
		return err
	}
	w.seen = nil
	a, err := write(root, "a.go", "package a // not watched any more\n")
	if err != nil {
		return err
	}
	return w.notReported(ctx, a)
}

func checkLargeSet(ctx context.Context, t *trial) error {
	w, root, err := t.watcher(ctx)
	if err != nil {
		return err
	}
	if err := w.knows(filepath.Join(root, "a.go"), filepath.Join(root, "sub", "b.go")); err != nil {
		return err
	}
	want := map[string]sdk.Op{}
	for i := range manyFiles + 5 { // more than one part
		path := filepath.Join(root, fmt.Sprintf("gone%d.go", i))
		w.set.Known[path], want[path] = "0000", sdk.Removed
	}
	got, err := w.start(ctx)
	if err != nil {
		return err
	}
	return w.want(got, want)
}
