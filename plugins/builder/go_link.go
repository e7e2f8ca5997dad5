package builder

import (
	"context"
	"slices"
)

// link links the page. config is the linker's importcfg, main the archive of the page, work a directory for temporary
// files. The output is what the linker printed.
func (b *build) link(ctx context.Context, l *lane, config, main, binary, work string) (output string, err error) {
	args := slices.Concat([]string{"-o", binary, "-importcfg", config}, l.ldflags, []string{main})
	return b.tool(ctx, l.linker, slices.Concat(l.env, l.linkEnv()), work, args...)
}

// linkEnv lets the linker not collect garbage while its heap is of the size that a page takes.
func (l *lane) linkEnv() []string {
	return []string{"GOROOT=" + l.goroot, "GOGC=off", "GOMEMLIMIT=1GiB"}
}
