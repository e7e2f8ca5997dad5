package builder

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// releaseLen is the length of a release's name: 128 bits in hex.
const releaseLen = 32

// clockStep is more than the steps in which Linux takes the time of a file's change.
const clockStep = 20 * time.Millisecond

// state is what a plan's files were like at one time.
type state struct {
	files   files
	shape   string    // hash of all that decides which files the build reads
	release string    // hash of all that decides what comes out of it
	newest  time.Time // last change of a file
	gone    bool      // a file that go list named is not there
}

// scan reads the files of a plan, those that did not change since known from there.
func (p *plan) scan(known files) state {
	s := state{files: files{}}
	shape := sha256.New()
	for _, dir := range p.dirs {
		for _, name := range sourceNames(dir) {
			f := s.read(filepath.Join(dir, name), known, p.std)
			fmt.Fprintf(shape, "%q %s %q\n", filepath.Join(dir, name), f.mode, f.outline)
		}
	}
	for _, e := range p.embeds {
		fmt.Fprintf(shape, "%q\n", e.names())
	}
	for _, path := range slices.Sorted(maps.Keys(p.meta)) {
		fmt.Fprintf(shape, "%q %s\n", path, s.read(path, known, p.std).sum)
	}
	for _, path := range p.tools {
		info, err := os.Stat(path)
		if err == nil {
			fmt.Fprintf(shape, "%q %d %d\n", path, info.Size(), info.ModTime().UnixNano())
		}
	}
	for _, path := range p.files {
		s.gone = s.read(path, known, p.std).mode == fs.ModeIrregular || s.gone
	}
	s.shape = hex.EncodeToString(shape.Sum(nil))
	s.release = p.release(s.files)
	return s
}

func (s *state) read(path string, known files, std func(string) bool) file {
	f, ok := s.files[path]
	if !ok {
		f = read(path, known, std)
		s.files[path] = f
		if t := time.Unix(0, f.id.changed); t.After(s.newest) && !t.After(time.Now()) { // a time to come says nothing
			s.newest = t
		}
	}
	return f
}

// release hashes what goes into the binary. The paths are absolute, as the binary holds them, for panics: a site that
// is moved is built anew, and two pages never share a release.
func (p *plan) release(known files) string {
	h := sha256.New()
	io.WriteString(h, "tqserver builder/go 1\n")
	for _, list := range [][]string{p.settings, p.modules} {
		fmt.Fprintf(h, "%q\n", list)
	}
	fmt.Fprintf(h, "%q\n", p.source)
	for _, path := range unique(slices.Concat(p.files, slices.Collect(maps.Keys(p.meta)))) {
		fmt.Fprintf(h, "%q %s\n", path, known[path].sum)
	}
	return hex.EncodeToString(h.Sum(nil))[:releaseLen]
}

// inputs are the files that exist, with their digests; one that cannot be read has none.
func (s state) inputs() []sdk.Input {
	var inputs []sdk.Input
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		if f := s.files[path]; f.mode.IsRegular() {
			inputs = append(inputs, sdk.Input{Path: path, Digest: f.digest})
		}
	}
	return inputs
}

// compilerOf identifies the C compiler: its path, size and time.
func compilerOf(cc string) []string {
	words := strings.Fields(cc)
	if len(words) == 0 {
		return nil
	}
	path, err := exec.LookPath(words[0])
	if err != nil {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return []string{fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano())}
}

// overlayFiles lists the files that an -overlay puts in the place of others.
func overlayFiles(path string) []string {
	var overlay struct{ Replace map[string]string }
	text, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(text, &overlay) != nil {
		return nil
	}
	return slices.DeleteFunc(slices.Sorted(maps.Values(overlay.Replace)), func(f string) bool { return f == "" })
}
