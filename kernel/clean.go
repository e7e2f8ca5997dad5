package kernel

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// cleanReleases removes old binaries every hour: those that were not used for workers.binary_max_age_hours, except
// what runs or is being started and each page's last workers.keep_releases. Names that begin with "." are the builders' own.
func (k *Kernel) cleanReleases(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		k.cleanOnce(time.Now())
		k.saveReleases()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leastAge is how old a binary is at least before it is removed: one that was built, or found again, a moment ago is
// about to be started.
const leastAge = time.Minute

func (k *Kernel) cleanOnce(now time.Time) {
	loaded := k.routes.loaded() // before the list, which is of no use for this otherwise
	pages := k.routes.list()
	if loaded { // a page may have gone while no server ran, or have had something to remember in its last moment
		names := map[string]bool{}
		for _, p := range pages {
			names[p.name] = true
		}
		k.good.retain(names)
	}
	keep := k.good.artifacts(k.config().Workers.KeepReleases)
	for _, p := range pages {
		for _, artifact := range p.view.Load().artifacts {
			keep[filepath.Dir(artifact)] = true
		}
	}
	age := max(k.config().Workers.BinaryMaxAge, leastAge)
	entries, err := os.ReadDir(*k.site.releases.Load())
	if err != nil {
		k.log.Warn("old binaries cannot be removed", "error", err)
		return
	}
	for _, e := range entries {
		dir := filepath.Join(*k.site.releases.Load(), e.Name())
		info, err := e.Info()
		if err != nil || keep[dir] || strings.HasPrefix(e.Name(), ".") || now.Sub(info.ModTime()) < age {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			k.log.Warn("an old binary cannot be removed", "error", err)
			continue
		}
		k.log.Debug("old binary removed", "release", e.Name())
	}
}
