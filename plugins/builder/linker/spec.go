package linker

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

var errStock = errors.New("for the stock linker alone")

// flagsPreloaded are the flags whose effect is known not to depend on the order in which objects are loaded, or on what
// lies between the start of the process and the link.
var flagsPreloaded = []string{"s", "w", "buildmode=exe", "buildid=", "X=", "B=", "compressdwarf=", "extld="}

// packages is what an importcfg names.
type packages struct {
	text  []byte
	files []string // archives
	set   string   // hash of the import paths
}

// packagesOf reads the importcfg of s. It fails with errStock where s has something that no preloaded linker is for.
func packagesOf(s Spec) (p packages, err error) {
	if p.text, err = os.ReadFile(s.ImportCfg); err != nil {
		return p, err
	}
	for _, flag := range s.Flags {
		if !preloadable(strings.TrimLeft(flag, "-")) {
			return p, fmt.Errorf("%w: flag %s", errStock, flag)
		}
	}
	var names []string
	for in := bufio.NewScanner(bytes.NewReader(p.text)); in.Scan(); {
		verb, rest, _ := strings.Cut(strings.TrimSpace(in.Text()), " ")
		name, file, ok := strings.Cut(rest, "=")
		switch {
		case verb == "packagefile" && ok && name != "runtime/cgo" && filepath.IsAbs(file): // with cgo, there may be another linker
			names, p.files = append(names, name), append(p.files, file)
		case verb == "packageshlib" || verb == "packagefile":
			return p, fmt.Errorf("%w: %s", errStock, in.Text())
		}
	}
	slices.Sort(names)
	p.set = hashOf(names...)
	return p, nil
}

func preloadable(flag string) bool {
	return slices.ContainsFunc(flagsPreloaded, func(ok string) bool {
		return flag == ok || strings.HasSuffix(ok, "=") && strings.HasPrefix(flag, ok)
	})
}

// proofKey names all links that one proof is good for: those by the same linker of the same packages, in whatever state
// these are, with the same flags but for the build id.
func (p packages) proofKey(s Spec) string {
	flags := slices.DeleteFunc(slices.Clone(s.Flags), func(flag string) bool { return strings.Contains(flag, "-buildid=") })
	return hashOf(slices.Concat([]string{s.toolchain(), p.set}, flags, s.goEnv())...)
}

// mark is equal for two Specs, or two states of the files of one, only where a linker that has loaded the packages of
// the one is good for the other.
func (p packages) mark(s Spec) (string, error) {
	state := slices.Concat([]string{s.toolchain(), string(p.text)}, s.Flags, s.goEnv())
	for _, file := range p.files {
		info, err := os.Stat(file)
		if err != nil {
			return "", err
		}
		state = append(state, fmt.Sprint(info.Size(), info.ModTime().UnixNano(), inode(info)))
	}
	return hashOf(state...), nil
}

func markOf(s Spec) (packages, string, error) {
	p, err := packagesOf(s)
	if err != nil {
		return p, "", err
	}
	mark, err := p.mark(s)
	return p, mark, err
}

func (s Spec) toolchain() string { return s.Tool + "\n" + s.GOROOT }

// goEnv is the part of the environment that the linker reads. The rest is for programs that it starts, with cgo.
func (s Spec) goEnv() []string {
	env := slices.DeleteFunc(slices.Clone(s.Env), func(v string) bool {
		return !strings.HasPrefix(v, "GO") || strings.HasPrefix(v, "GOGC=") || strings.HasPrefix(v, "GOTMPDIR=")
	})
	slices.Sort(env)
	return env
}

// without gives the variables of env but those of some names.
func without(env []string, names ...string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(names, name)
	})
}

// hashOf is the same for the same parts only.
func hashOf(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}
