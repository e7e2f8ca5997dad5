package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/control"
)

// What one can go back to: a page remembers what it has built, and tells it.

// keepBuilt remembers a release that was built, and lets the binaries go of those that are too many: a day of saves
// would fill the disk.
func (p *page) keepBuilt(r release, b *buildReport) {
	rec := record{release: r, Built: b.at, Duration: b.result.Duration, Size: size(r.Artifact)}
	dropped := p.k.good.add(p.name, rec, p.k.config().Workers.KeepReleases)
	used := p.view.Load().artifacts
	dropped = slices.DeleteFunc(dropped, func(r record) bool { // the hourly cleaning gets those that are in use now
		return slices.Contains(used, r.Artifact) || filepath.Dir(filepath.Dir(r.Artifact)) != *p.k.site.releases.Load()
	})
	if len(dropped) == 0 {
		return
	}
	p.work.Go(func() {
		for _, r := range dropped {
			if err := os.RemoveAll(filepath.Dir(r.Artifact)); err != nil {
				p.k.log.Warn("an old binary cannot be removed", "page", p.name, "error", err)
			}
		}
	})
}

// save has the disk follow what is remembered. It does not block.
func (p *page) save() { p.work.Go(p.k.saveReleases) }

// noteRevision finds out which commit a release is of. It does not block.
func (p *page) noteRevision(id string) {
	if p.k.good.revised(p.name, id) || !p.newest(release{ID: id}) { // the source has gone on since
		return
	}
	inputs, root, dir := p.built.result.Inputs, p.k.site.root, p.route.Dir
	p.work.Go(func() {
		commit, dirty := revision(p.ctx, root, dir, inputs)
		if commit == "" {
			return
		}
		p.k.good.update(p.name, id, func(rec *record) {
			if rec.Revision == "" {
				rec.Revision, rec.Dirty = commit, dirty
			}
		})
		p.k.saveReleases()
	})
}

// Releases lists what one can go back to.
func (k *Kernel) Releases(name string) (control.PageReleases, error) {
	p, err := k.pageNamed(name)
	if err != nil {
		return control.PageReleases{}, err
	}
	v := p.view.Load()
	out := control.PageReleases{Page: p.name, Route: v.page.Host + v.page.Route, Pinned: k.good.pinned(p.name), Releases: []control.Release{}}
	all := k.good.records(p.name)
	slices.SortStableFunc(all, func(a, b record) int { return b.Built.Compare(a.Built) })
	before := previous(all, v.page.Release)
	for _, r := range all {
		shown := control.Release{ID: r.ID, Built: r.Built, Live: r.Live, Revision: r.Revision, Dirty: r.Dirty, BuildMS: r.Duration.Milliseconds(), Size: r.Size,
			State: "good", Reason: cmp.Or(r.Undone, r.Failed), Warm: v.warm != nil && v.warmSet[0].release.ID == r.ID}
		switch {
		case r.ID == v.page.Release:
			shown.State = "live"
		case r.Undone != "":
			shown.State = "rolled back"
		case r.Failed != "":
			shown.State = "failed"
		case r.ID == before.ID:
			shown.State = "previous"
		}
		out.Releases = append(out.Releases, shown)
	}
	return out, nil
}

// previous gives the release that served before the one that is live, and was not put back; one without an ID when
// there is none.
func previous(all []record, live string) (found record) {
	for _, r := range all {
		if r.ID != live && !r.Live.IsZero() && r.Undone == "" && r.Failed == "" && r.Live.After(found.Live) {
			found = r
		}
	}
	return found
}

// choose finds the release that the beginning of an ID names; "" names the previous one.
func choose(all []record, live, name string) (release, error) {
	if name == "" {
		if r := previous(all, live); r.ID != "" {
			return r.release, nil
		}
		return release{}, fmt.Errorf("no release has served before the live one: %s", offered(all, live))
	}
	var found []record
	for _, r := range all {
		if r.ID == name {
			return r.release, nil
		}
		if strings.HasPrefix(r.ID, strings.ToLower(name)) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return release{}, fmt.Errorf("no release %q: %s", name, offered(all, live))
	case 1:
		return found[0].release, nil
	}
	return release{}, fmt.Errorf("release %q may be any of %d: %s", name, len(found), offered(found, live))
}

// offered lists releases for a person, the newest build first.
func offered(all []record, live string) string {
	var names []string
	for _, r := range slices.Backward(all) {
		name := r.short()
		if r.ID == live {
			name += " (live)"
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return "none is kept"
	}
	return "there are " + strings.Join(names, ", ")
}

// pageNamed finds a page by its name or a route that leads to it.
func (k *Kernel) pageNamed(name string) (*page, error) {
	r := k.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pages[name]; p != nil {
		return p, nil
	}
	var routes, names []string
	for _, route := range r.table.Routes {
		at := route.Host + route.Path
		if at == name || at == strings.TrimSuffix(name, "/") {
			return r.pages[route.Page], nil
		}
		routes = append(routes, fmt.Sprintf("%s (%s)", route.Page, at))
		names = append(names, route.Page, at)
	}
	if len(routes) == 0 {
		return nil, errors.New("there are no pages yet")
	}
	slices.Sort(routes)
	text := fmt.Sprintf("no page %q: there are %s", name, strings.Join(routes, ", "))
	if meant := config.Nearest(name, names); meant != "" {
		text = fmt.Sprintf("%s\nhint: did you mean %s?", text, meant)
	}
	return nil, errors.New(text)
}
