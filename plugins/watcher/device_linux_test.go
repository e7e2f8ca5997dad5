package watcher

import (
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// On a file system that others write to, nothing is tried: the trial would succeed.
func TestRemoteFileSystemIsPolled(t *testing.T) {
	root := site(t)
	var f unix.Statfs_t
	must(t, unix.Statfs(root, &f))
	kind := uint32(f.Type)
	was, had := remoteTypes[kind]
	remoteTypes[kind] = "testfs"
	t.Cleanup(func() {
		if delete(remoteTypes, kind); had {
			remoteTypes[kind] = was
		}
	})
	var log strings.Builder
	t.Run("run", func(t *testing.T) {
		w := quick()
		w.SetLogger(hclog.New(&hclog.LoggerOptions{Output: &log}))
		w.open = func(h *hints) (source, error) { return &silent{hints: h}, nil } // tells nothing
		before, err := os.Stat(root)
		must(t, err)
		r := start(t, w)
		r.root(root)
		after, err := os.Stat(root)
		must(t, err)
		if !before.ModTime().Equal(after.ModTime()) {
			t.Error("a scratch file was written")
		}
		write(t, root+"/a/main.go", "package main")
		r.settle(root)
	})
	if strings.Count(log.String(), "file_system=testfs") != 1 {
		t.Errorf("log:\n%s", &log)
	}
}
