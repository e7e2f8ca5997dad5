package kernel

import (
	"fmt"
	"strings"
	"time"
)

// startProgress tells how far the start is: done when every page serves or has failed.
func (k *Kernel) startProgress() (done bool, total int, text string) {
	age := time.Since(k.started).Round(time.Second)
	if !k.routes.loaded() {
		return false, 0, fmt.Sprintf("looking for pages … %v", age)
	}
	var waiting []string
	pages := k.routes.list()
	for _, p := range pages {
		if s := p.view.Load().page.State; s != serving && s != "failed" && s != "skipped" {
			waiting = append(waiting, p.name)
		}
	}
	text = fmt.Sprintf("building %d of %d pages: %s … %v", len(waiting), len(pages), strings.Join(waiting[:min(4, len(waiting))], ", "), age)
	return len(waiting) == 0, len(pages), text
}
