package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Sweep removes the sockets that a killed kernel left in runtimeDir. No plugin of it may run.
func Sweep(runtimeDir string) error {
	return removeEntries(runtimeDir, func(name string) bool { return strings.HasPrefix(name, "plugin-dir") }) // as go-plugin names them
}

// Prune removes the private copies of custom plugins from stateDir, except those that one of the specs executes. A
// plugin that still runs from a removed copy is not disturbed.
func Prune(stateDir string, keep ...Spec) error {
	dir, err := filepath.Abs(filepath.Join(stateDir, "plugins"))
	if err != nil {
		return fmt.Errorf("prune plugins: %w", err)
	}
	return removeEntries(dir, func(name string) bool {
		return !slices.ContainsFunc(keep, func(s Spec) bool { return s.Path == filepath.Join(dir, name, "plugin") })
	})
}

// removeEntries removes what is in dir and has a name to be removed. A directory that is missing has no entries.
func removeEntries(dir string, remove func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		if remove(e.Name()) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(append(errs, err)...)
}

// privateDir makes sure that dir is a directory of this user that nobody else can enter. Parents that are missing are
// made the same way.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, not to this one (%d)", dir, owner.Uid, os.Geteuid())
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return os.Chmod(dir, 0o700)
}
