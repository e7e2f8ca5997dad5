package kernel

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

const (
	revisionLimit = 3 * time.Second // for git, which reads the whole index
	revisionFiles = 500             // named on git's command line
)

// revision tells which commit is checked out where a page lies, and whether what it is built from differs from that.
// It blocks for git; "" means that there is no git, no work tree, or no answer in time.
func revision(ctx context.Context, root, dir string, inputs []sdk.Input) (commit string, dirty bool) {
	if !inWorkTree(dir) {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, revisionLimit)
	defer cancel()
	args := append([]string{"--no-optional-locks", "--literal-pathspecs", "status", "--porcelain=v2", "--branch", "--untracked-files=all", "--"}, revisionPaths(root, dir, inputs)...)
	git := exec.CommandContext(ctx, "git", args...)
	git.Dir, git.WaitDelay = dir, time.Second
	git.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	out, err := git.Output()
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if oid, ok := strings.CutPrefix(line, "# branch.oid "); ok && oid != "(initial)" {
			commit = oid
		} else if line != "" && !strings.HasPrefix(line, "#") {
			dirty = true
		}
	}
	return commit, dirty
}

// inWorkTree tells whether it is worth asking git: it, or a link to it, is in the directory or above.
func inWorkTree(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return true
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
}

// revisionPaths names the page's directory, which has what it reads while it runs, and the files of the site that it
// is built from besides.
func revisionPaths(root, dir string, inputs []sdk.Input) []string {
	paths := []string{dir}
	for _, in := range inputs {
		if below(root, in.Path) && !below(dir, in.Path) && len(paths) < revisionFiles {
			paths = append(paths, in.Path)
		}
	}
	return paths
}
