package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/plugins/builder/linker"
)

const (
	storeName  = ".go-lane"      // in OutDir
	linkerName = ".go-linker"    // in OutDir
	storeKeep  = 2 * time.Minute // for a file that no lane uses: another process may have put it there a moment ago
	sweepEvery = time.Minute
)

// store holds the archives of compiled packages, and lists of them, in one directory. A file is named after all that
// its content depends on, and is never changed. Safe for concurrent use, also by several processes.
type store struct {
	dir string

	mu      sync.Mutex
	busy    map[string]chan struct{}   // see lock
	exports map[string]string          // see export
	held    map[string]map[string]bool // names that are in use, by source
	swept   time.Time

	linker *linker.Linker
}

func newStore(outDir string, log hclog.Logger) *store {
	preload := linker.New(linker.Options{Dir: filepath.Join(outDir, linkerName), Tools: linkerTools(), Log: log})
	return &store{dir: filepath.Join(outDir, storeName), linker: preload, busy: map[string]chan struct{}{}, exports: map[string]string{},
		held: map[string]map[string]bool{}, swept: time.Now()}
}

// linkerTools is where the linkers of all servers of a user are, as building one takes seconds; "": with each server.
func linkerTools() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "tqserver", "linker")
}

func (s *store) path(name string) string { return filepath.Join(s.dir, name) }
func (s *store) has(name string) bool    { return isFile(s.path(name)) }

// lock waits until nobody else makes the named file.
func (s *store) lock(ctx context.Context, name string) (free func(), err error) {
	s.mu.Lock()
	place := s.busy[name]
	if place == nil {
		place = make(chan struct{}, 1)
		s.busy[name] = place
	}
	s.mu.Unlock()
	return take(ctx, place)
}

// adopt takes an archive of the go command's cache into the store: by a hard link, so that it stays when the cache is
// trimmed, or else by a copy. An empty name stands for the hash of the content.
func (s *store) adopt(archive, name string) (string, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return "", fmt.Errorf("make the directory of archives: %w", err)
	}
	if name == "" {
		var err error
		if name, err = contentName(archive); err != nil {
			return "", fmt.Errorf("read an archive: %w", err)
		}
	}
	if sameSize(archive, s.path(name)) {
		return name, nil
	}
	linked := s.path(fmt.Sprintf("new-%s-%d", name, os.Getpid()))
	defer os.Remove(linked)
	if os.Link(archive, linked) == nil && os.Rename(linked, s.path(name)) == nil {
		return name, nil
	}
	if err := copyArchive(archive, s.dir, name); err != nil {
		return "", fmt.Errorf("copy an archive: %w", err)
	}
	return name, nil
}

func sameSize(one, other string) bool {
	a, err := os.Stat(one)
	b, e := os.Stat(other)
	return err == nil && e == nil && a.Size() == b.Size()
}

// cacheName is how the go command's cache names a file: by its content.
var cacheName = regexp.MustCompile(`^([0-9a-f]{64})-d$`)

func contentName(path string) (string, error) {
	if m := cacheName.FindStringSubmatch(filepath.Base(path)); m != nil {
		return m[1], nil
	}
	sum, _, err := checksum(path)
	return sum, err
}

func copyArchive(from, dir, name string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(dir, "new-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	_, err = io.Copy(out, in)
	if e := out.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(out.Name(), filepath.Join(dir, name))
}

// config gives the path of a file with the text.
func (s *store) config(text string) (path string, err error) {
	sum := sha256.Sum256([]byte(text))
	path = s.path(hex.EncodeToString(sum[:]) + ".cfg")
	if isFile(path) {
		return path, nil
	}
	f, err := os.CreateTemp(s.dir, "new-")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return "", err
	}
	return path, os.Rename(f.Name(), path)
}

// export gives the hash of what an importer sees of the package in the named archive.
func (s *store) export(name string) (string, error) {
	s.mu.Lock()
	sum, ok := s.exports[name]
	s.mu.Unlock()
	if ok {
		return sum, nil
	}
	text, err := os.ReadFile(s.path(name))
	if err != nil {
		return "", err
	}
	parts, err := archiveParts(text)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	hash := sha256.Sum256(parts["__.PKGDEF"])
	sum = hex.EncodeToString(hash[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exports[name] = sum
	return sum, nil
}

// buildIDLine is the line of a part's head that tells what it was made of.
var buildIDLine = regexp.MustCompile(`(?m)^build id "[^"\n]*"\n`)

// archiveParts splits an archive of the Go compiler, and takes the build IDs out.
func archiveParts(text []byte) (map[string][]byte, error) {
	parts := map[string][]byte{}
	rest, ok := bytes.CutPrefix(text, []byte("!<arch>\n"))
	for ok && len(rest) > 0 {
		if len(rest) < 60 {
			return nil, fmt.Errorf("cut off after %d bytes", len(text))
		}
		name := strings.TrimSpace(string(rest[:16]))
		size, err := strconv.Atoi(strings.TrimSpace(string(rest[48:58])))
		if err != nil || size < 0 || size > len(rest)-60 {
			return nil, fmt.Errorf("part %q has no size", name)
		}
		part := rest[60 : 60+size]
		if at := buildIDLine.FindIndex(part[:min(size, 1024)]); at != nil {
			part = slices.Concat(part[:at[0]], part[at[1]:])
		}
		parts[name] = part
		rest = rest[min(len(rest), 60+size+size%2):]
	}
	if len(parts["__.PKGDEF"]) == 0 {
		return nil, fmt.Errorf("no archive of the Go compiler")
	}
	return parts, nil
}

// sameArchives tells whether two archives hold the same package.
func sameArchives(one, other string) (bool, error) {
	var both [2]map[string][]byte
	for i, path := range []string{one, other} {
		text, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		if both[i], err = archiveParts(text); err != nil {
			return false, fmt.Errorf("read %s: %w", path, err)
		}
	}
	return maps.EqualFunc(both[0], both[1], bytes.Equal), nil
}

// hold tells which files a source needs from now on; nobody needs those in gone any more.
func (s *store) hold(source string, names map[string]bool, gone ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[source] = names
	for _, name := range gone {
		if name != "" && !names[name] {
			os.Remove(s.path(name))
			delete(s.exports, name)
		}
	}
}

// sweep removes the files that nobody holds, now and then.
func (s *store) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.swept) < sweepEvery {
		return
	}
	s.swept = now
	used := map[string]bool{}
	for _, names := range s.held {
		maps.Copy(used, names)
	}
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || used[e.Name()] {
			continue
		}
		if _, changed := inode(info); now.Sub(changed) > storeKeep {
			os.Remove(s.path(e.Name()))
			delete(s.exports, e.Name())
		}
	}
	for name, place := range s.busy {
		if len(place) == 0 {
			delete(s.busy, name)
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
