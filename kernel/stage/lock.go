package stage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/tqserver/tqserver/config"
)

// Lock is the content of a lock file: what the custom plugins of a configuration are. `tqserver plugin lock` writes it.
type Lock struct {
	File    string            // where it is
	Plugins map[string]Locked // by the `use` of their entries
}

// Locked is one custom plugin.
type Locked struct {
	Name, Version string            // as it describes itself
	SHA256        map[string]string // of its executable, in hex, by platform: see [Platform]
}

// Platform names what this tqserver runs on, as "linux/amd64".
func Platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

// LockPath gives the lock file of a configuration file, which is beside it. "" is the built-in default configuration.
func LockPath(configFile string) string {
	return filepath.Join(filepath.Dir(cmp.Or(configFile, config.DefaultPath)), "plugins.lock")
}

// ReadLock reads a lock file. Without one it gives nil, which [Resolve] takes as well. A file with problems gives
// [config.Errors].
func ReadLock(path string) (*Lock, error) {
	text, err := readLimited(path, maxLock+1)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !isLink(path):
		return nil, nil
	case err != nil:
		return nil, &config.Error{Position: config.Position{File: path}, Message: fmt.Sprintf("read lock file: %v", err), Hint: "check that it is a file and that this user may read it"}
	}
	return parseLock(path, text)
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

func isLink(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

const lockHeader = `# Which file each custom plugin of the configuration beside this is.
# Written by "tqserver plugin lock": commit it, and do not edit it by hand.
`

// Text gives the lock as it is in the file: sorted, so that the same lock is the same text.
func (l *Lock) Text() []byte {
	var b bytes.Buffer
	b.WriteString(lockHeader)
	if len(l.Plugins) == 0 {
		b.WriteString("plugins: {}\n")
		return b.Bytes()
	}
	b.WriteString("plugins:\n")
	for _, use := range slices.Sorted(maps.Keys(l.Plugins)) {
		one := l.Plugins[use]
		fmt.Fprintf(&b, "  %s:\n    name: %s\n    version: %s\n    sha256:\n", quoted(use), quoted(one.Name), quoted(one.Version))
		for _, platform := range slices.Sorted(maps.Keys(one.SHA256)) {
			fmt.Fprintf(&b, "      %s: %s\n", platform, quoted(one.SHA256[platform]))
		}
	}
	return b.Bytes()
}

// quoted is text in YAML's double quotes, whose escapes are among those of Go. A hash must be quoted: 12e3… is a number.
func quoted(s string) string { return strconv.Quote(s) }

// Write replaces the file as a whole: a reader sees the old content or the new.
func (l *Lock) Write() error {
	f, err := os.CreateTemp(filepath.Dir(l.File), ".plugins.lock-*")
	if err != nil {
		return fmt.Errorf("write lock file: %w", err)
	}
	_, err = f.Write(l.Text())
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), l.File)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write lock file: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// pin gives the hash that the file of an entry must have. It is called without a lock, too.
func (l *Lock) pin(p config.Plugin) (pin, *fault) {
	own := pin{sha256: strings.ToLower(p.SHA256), by: "configured is", key: "sha256", hint: "if you trust the file as it is now, put its hash into sha256"}
	if l == nil {
		return own, nil
	}
	one, named := l.Plugins[p.Use]
	sum, ok := one.SHA256[Platform()]
	locked := pin{sha256: sum, by: fmt.Sprintf("%s has, for %s,", l.File, Platform()), key: "use",
		hint: "if you trust the file as it is now, run `tqserver plugin lock`"}
	switch {
	case ok && own.sha256 != "" && own.sha256 != sum:
		return pin{}, &fault{"sha256", fmt.Sprintf("configured is %s, %s %s", own.sha256, locked.by, sum),
			"correct sha256, or, if the lock is what is out of date, run `tqserver plugin lock`"}
	case own.sha256 != "":
		return own, nil
	case ok:
		return locked, nil
	case named:
		return pin{}, &fault{"use", fmt.Sprintf("%s has no hash of it for %s", l.File, Platform()),
			"run `tqserver plugin lock` here after checking that you trust the file"}
	}
	return pin{}, &fault{"use", "it is not in " + l.File, "run `tqserver plugin lock` after checking that you trust the file"}
}
