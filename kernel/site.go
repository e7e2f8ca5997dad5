package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/tqserver/tqserver/config"
)

// site is where a kernel lives on disk. All directories are private to its user.
type site struct {
	root     string // the site: relative paths of the configuration start here, and workers run here
	state    string // what outlives the kernel: last good table and releases, spilled logs, the note for the CLI
	run      string // sockets; short, gone with the kernel
	lock     *os.File
	releases atomic.Pointer[string] // directory of built binaries; a reload may move it
	sockets  atomic.Uint64          // of workers, so far
}

// openSite makes the directories. A server takes the site's lock, so that one serves it; a tool is there beside it,
// with a runtime directory of its own.
func openSite(root string, c *config.Config, server bool) (*site, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("find the site's root: %w", err)
	}
	s := &site{root: root}
	s.state = s.abs(c.Server.StateDir)
	if err := privateDir(s.state); err != nil {
		return nil, fmt.Errorf("server.state_dir: %w", err)
	}
	s.run = filepath.Join(runtimeBase(), s.id())
	if server {
		if s.lock, err = lockFile(Lock(s.state)); err != nil {
			return nil, err
		}
	} else {
		s.run += fmt.Sprintf("-%d", os.Getpid())
		if s.lock, err = flock(s.path("tools"), syscall.LOCK_SH); err != nil { // see prune
			return nil, fmt.Errorf("server.state_dir: %w", err)
		}
	}
	if err := s.openDirs(c); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// openDirs is the part of openSite that needs the lock: what a killed kernel left is removed.
func (s *site) openDirs(c *config.Config) error {
	releases, err := s.releaseDir(c)
	if err != nil {
		return err
	}
	s.releases.Store(&releases)
	if err := os.RemoveAll(s.run); err != nil {
		return fmt.Errorf("clear runtime directory: %w", err)
	}
	if err := privateDir(s.run); err != nil {
		return fmt.Errorf("runtime directory: %w", err)
	}
	return nil
}

// abs makes a path of the configuration absolute.
func (s *site) abs(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(s.root, path)
}

// id is a short name of the site for directories that sites share.
func (s *site) id() string {
	sum := sha256.Sum256([]byte(s.state))
	return hex.EncodeToString(sum[:4])
}

// releaseDir is the site's own directory below workers.temp_dir.
func (s *site) releaseDir(c *config.Config) (string, error) {
	dir := filepath.Join(s.abs(c.Workers.TempDir), filepath.Base(s.root)+"-"+s.id())
	if err := privateDir(dir); err != nil {
		return "", fmt.Errorf("workers.temp_dir: %w", err)
	}
	return dir, nil
}

// close removes what ends with the kernel and gives the lock back.
func (s *site) close() error {
	err := os.RemoveAll(s.run)
	if s.lock != nil {
		err = errors.Join(err, unlock(s.lock))
	}
	return err
}

// path is a file in the state directory.
func (s *site) path(name string) string { return filepath.Join(s.state, name) }

// maxRuntimeBase is how long the path of the runtime directory's parent may be, in bytes, so that those of the sockets
// in it fit into the 99 that every system takes: "/<id>-<pid>" and "/plugin-dir<number>/plugin<number>" come after it.
const maxRuntimeBase = 99 - len("/01234567-4194304") - len("/plugin-dir4294967295/plugin4294967295")

// runtimeBase is a short directory of this user that need not outlive a login. One that is too long, as TMPDIR is on
// some systems, is passed over.
func runtimeBase() string {
	own := fmt.Sprintf("tqserver-%d", os.Getuid())
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		base := filepath.Join(dir, "tqserver")
		if info, err := os.Stat(dir); err == nil && info.IsDir() && len(base) <= maxRuntimeBase {
			return base
		}
	}
	if base := filepath.Join(os.TempDir(), own); len(base) <= maxRuntimeBase {
		return base
	}
	return filepath.Join("/tmp", own)
}

// Lock is the file in a state directory that is locked while a server runs.
func Lock(stateDir string) string { return filepath.Join(stateDir, "lock") }

// lockFile takes a lock that ends with the process.
func lockFile(path string) (*os.File, error) {
	f, err := flock(path, syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		owner, _ := os.ReadFile(path)
		return nil, fmt.Errorf("a server already runs for this site (pid %s): `tqserver stop` ends it, `tqserver status` shows it", strings.TrimSpace(string(owner)))
	case err != nil:
		return nil, fmt.Errorf("lock the site: %w", err)
	}
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	return f, nil
}

// flock opens a file, which it makes when needed, and locks it as syscall.Flock does, until unlock or the process ends.
func flock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for err = syscall.EINTR; err == syscall.EINTR; {
		err = syscall.Flock(int(f.Fd()), how)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// unlock ends a lock at once. Closing the file alone would leave it to a process that is just being started, which has
// a copy of the descriptor until its program runs.
func unlock(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}

// privateDir makes a directory, 0700, and refuses one that another user could have planted or could replace.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w: choose one that you may write to", err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := os.Chmod(real, 0o700); err != nil {
		return fmt.Errorf("make directory private: %w: choose one that you own", err)
	}
	for p := real; ; p = filepath.Dir(p) {
		if err := trusted(p); err != nil {
			return err
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

// trusted tells whether nobody but this user and root can replace what is in a directory.
func trusted(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("check directory: %w", err)
	}
	owner := -1
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = int(st.Uid)
	}
	if owner != os.Geteuid() && owner != 0 {
		return fmt.Errorf("directory %s belongs to another user (uid %d), who could replace what is in it: choose one that you own", dir, owner)
	}
	if info.Mode().Perm()&0o002 != 0 && info.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("directory %s is writable for everybody: `chmod o-w %s`, or choose another", dir, dir)
	}
	return nil
}

// saveJSON replaces a file as a whole: a reader sees the old content or the new.
func saveJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("save %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}

// loadJSON reads a file of saveJSON. One that is missing or unreadable leaves v as it is.
func loadJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}
