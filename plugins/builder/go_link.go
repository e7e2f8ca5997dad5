package builder

import (
	"context"
	"os"
	"slices"

	"github.com/tqserver/tqserver/plugins/builder/linker"
)

// link links the page. config is the linker's importcfg, main the archive of the page, work a directory for temporary
// files. The output is what the linker printed.
func (b *build) link(ctx context.Context, l *lane, config, main, binary, work string) (output string, err error) {
	if b.config.Linker == "stock" {
		return b.tool(ctx, l.linker, slices.Concat(l.env, l.linkEnv()), work, append(l.linkArgs(config), "-o", binary, main)...)
	}
	path, err := b.config.goPath()
	if err != nil {
		return "", err
	}
	spec := linker.Spec{Tool: l.linker, GOROOT: l.goroot, Go: path, ImportCfg: config, Flags: l.ldflags, Dir: b.job.Source,
		Env: slices.Concat(os.Environ(), []string{"PWD=" + b.job.Source}, l.env, l.linkEnv())}
	preload := b.lanes.store(b.job.OutDir).linker
	_, text, err := preload.Link(ctx, b.job.Source, spec, main, binary)
	if err == nil { // who saves a page is about to save it again
		preload.Prepare(b.job.Source, spec)
	}
	return string(text), err
}

func (l *lane) linkArgs(config string) []string {
	return append([]string{"-importcfg", config}, l.ldflags...)
}

// linkEnv lets the linker not collect garbage while its heap is of the size that a page takes.
func (l *lane) linkEnv() []string {
	return []string{"GOROOT=" + l.goroot, "GOGC=off", "GOMEMLIMIT=1GiB"}
}
