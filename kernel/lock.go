package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/stage"
	"github.com/tqserver/tqserver/sdk"
)

// configured is one plugin that a configuration names.
type configured struct {
	stage string
	entry config.Plugin
}

// allConfigured lists them in the order of the stages' work.
func allConfigured(c *config.Config) []configured {
	all := []configured{{"resolver", c.Plugins.Resolver}}
	for _, b := range c.Plugins.Builder {
		all = append(all, configured{"builder", b})
	}
	return append(all, configured{"watcher", c.Plugins.Watcher}, configured{"checker", c.Plugins.Checker}, configured{"rotator", c.Plugins.Rotator})
}

func (n configured) builtIn() bool { return strings.HasPrefix(n.entry.Use, "builtin:") }

func (k *Kernel) resolveOptions(c *config.Config) (stage.ResolveOptions, error) {
	lock, err := stage.ReadLock(stage.LockPath(c.File))
	return stage.ResolveOptions{Root: k.site.root, StateDir: k.site.state, Builtins: k.opts.Builtins, Environ: k.opts.Environ,
		Lock: lock, Attached: k.attached}, err
}

// Locked is a custom plugin in the lock file, or one that was in it, and what there is to change about it.
type Locked struct {
	Use     string   `json:"use"`
	Name    string   `json:"name"`
	Version string   `json:"version"`
	SHA256  string   `json:"sha256,omitempty"` // for this platform
	Changes []string `json:"changes"`          // empty: the lock is right
}

// LockPlugins makes the lock file what the configuration and the files that it names are, on this platform, and tells
// what that changes. With an error nothing is changed, and with check it only tells: a file whose hash is not in the
// lock is not executed then. Without a custom plugin no file is made.
func LockPlugins(ctx context.Context, o Options, check bool) (path string, rows []Locked, err error) {
	path = stage.LockPath(o.Config.File)
	err = offline(o, func(k *Kernel) error {
		r, err := k.resolveOptions(k.config())
		if err != nil {
			return err
		}
		l := &locking{options: r, check: check, next: &stage.Lock{File: path, Plugins: map[string]stage.Locked{}}}
		if l.old = r.Lock; l.old == nil {
			l.old = &stage.Lock{File: path}
		}
		l.options.Lock = nil // it is what is to change
		err = l.all(ctx, allConfigured(k.config()))
		rows = l.rows
		if err != nil || check || bytes.Equal(l.old.Text(), l.next.Text()) {
			return err
		}
		return l.next.Write()
	})
	return path, rows, err
}

// locking is one run of LockPlugins.
type locking struct {
	options   stage.ResolveOptions
	check     bool
	old, next *stage.Lock
	rows      []Locked
}

func (l *locking) all(ctx context.Context, all []configured) error {
	var errs []error
	for _, n := range all {
		if !n.builtIn() {
			errs = append(errs, l.add(ctx, n))
		}
	}
	for _, use := range slices.Sorted(maps.Keys(l.old.Plugins)) {
		if _, kept := l.next.Plugins[use]; !kept {
			have := l.old.Plugins[use]
			l.rows = append(l.rows, Locked{Use: use, Name: have.Name, Version: have.Version, Changes: []string{"removed: the configuration does not name it"}})
		}
	}
	return errors.Join(errs...)
}

func (l *locking) add(ctx context.Context, n configured) error {
	spec, err := stage.Resolve(n.stage, n.entry, l.options)
	if err != nil {
		return err
	}
	have, known := l.old.Plugins[n.entry.Use]
	if l.check && have.SHA256[stage.Platform()] != spec.SHA256 {
		l.put(spec, have, []string{otherHash(have, known)})
		return nil
	}
	d, err := describeFit(ctx, spec)
	if err != nil {
		return err
	}
	one, changes := relock(have, known, d, spec.SHA256)
	l.put(spec, one, changes)
	return nil
}

// put adds a plugin, once for all entries that name its file.
func (l *locking) put(spec stage.Spec, one stage.Locked, changes []string) {
	if _, twice := l.next.Plugins[spec.Name]; !twice {
		l.rows = append(l.rows, Locked{Use: spec.Name, Name: one.Name, Version: one.Version, SHA256: spec.SHA256, Changes: changes})
	}
	l.next.Plugins[spec.Name] = one
}

// describeFit asks a plugin what it is; one that cannot serve its stage is an error.
func describeFit(ctx context.Context, spec stage.Spec) (sdk.Description, error) {
	d, err := stage.Describe(ctx, spec)
	if err != nil {
		return d, err
	}
	if reasons := spec.Unfit(d); len(reasons) > 0 {
		return d, fmt.Errorf("%s plugin %s: %s", spec.Stage, spec.Name, strings.Join(reasons, "; "))
	}
	return d, nil
}

func otherHash(have stage.Locked, known bool) string {
	switch _, here := have.SHA256[stage.Platform()]; {
	case !known:
		return "added"
	case !here:
		return "added for " + stage.Platform()
	}
	return "new file"
}

// relock gives the new entry of a plugin. Hashes for other platforms stay as long as it is the same version.
func relock(have stage.Locked, known bool, d sdk.Description, sum string) (one stage.Locked, changes []string) {
	platform := stage.Platform()
	changes = []string{}
	one = stage.Locked{Name: d.Name, Version: d.Version, SHA256: map[string]string{platform: sum}}
	if have.SHA256[platform] != sum {
		changes = append(changes, otherHash(have, known))
	}
	if !known {
		return one, changes
	}
	for _, c := range [][3]string{{"name", have.Name, d.Name}, {"version", have.Version, d.Version}} {
		if c[1] != c[2] {
			changes = append(changes, fmt.Sprintf("%s %s instead of %s", c[0], c[2], c[1]))
		}
	}
	others := maps.Clone(have.SHA256)
	delete(others, platform)
	switch {
	case len(others) == 0:
	case have.Name == d.Name && have.Version == d.Version:
		maps.Copy(one.SHA256, others)
	default:
		changes = append(changes, fmt.Sprintf("the hashes for %s are dropped: run `tqserver plugin lock` there as well", strings.Join(slices.Sorted(maps.Keys(others)), ", ")))
	}
	return one, changes
}

// Verified is what there is to say about one plugin of the configuration.
type Verified struct {
	Stage    string   `json:"stage"`
	Plugin   string   `json:"plugin"`
	BuiltIn  bool     `json:"built_in"`
	Name     string   `json:"name,omitempty"`
	Version  string   `json:"version,omitempty"`
	SHA256   string   `json:"sha256,omitempty"`
	Pinned   bool     `json:"pinned"`             // by the lock file or by sha256 in the configuration
	Problems []string `json:"problems,omitempty"` // none: it is fit to run
}

// VerifyPlugins checks every plugin of a configuration as far as that goes without putting one to work: the file, its
// hash, and what it says that it is. The error is about the configuration as a whole.
func VerifyPlugins(ctx context.Context, o Options) (all []Verified, err error) {
	err = offline(o, func(k *Kernel) error {
		r, err := k.resolveOptions(k.config())
		if err != nil {
			return err
		}
		for _, n := range allConfigured(k.config()) {
			all = append(all, verify(ctx, n, r))
		}
		return nil
	})
	return all, err
}

func verify(ctx context.Context, n configured, r stage.ResolveOptions) Verified {
	v := Verified{Stage: n.stage, Plugin: n.entry.Use, BuiltIn: n.builtIn(), Pinned: r.Lock != nil || n.entry.SHA256 != ""}
	spec, err := stage.Resolve(n.stage, n.entry, r)
	if err != nil {
		v.Problems = []string{err.Error()}
		return v
	}
	if v.BuiltIn {
		return v
	}
	v.SHA256 = spec.SHA256
	d, err := stage.Describe(ctx, spec)
	if err != nil {
		v.Problems = []string{err.Error()}
		return v
	}
	v.Name, v.Version, v.Problems = d.Name, d.Version, spec.Unfit(d)
	if r.Lock == nil {
		return v
	}
	if have, ok := r.Lock.Plugins[n.entry.Use]; ok && (have.Name != d.Name || have.Version != d.Version) {
		v.Problems = append(v.Problems, fmt.Sprintf("%s says %s %s: run `tqserver plugin lock`", r.Lock.File, have.Name, have.Version))
	}
	return v
}
