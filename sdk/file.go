package sdk

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// DigestLimit is the size in bytes above which FileDigest does not read a file: a database beside a page must not
// cost a reading at each write.
const DigestLimit = 8 << 20

// FileDigest gives the digest by which watcher, builder and kernel agree on the content of a file: lower-case hex
// SHA-256 of its content, or of "size:mtime in ns" above 8 MiB. A path that is not a regular file is an error.
func FileDigest(path string) (string, error) {
	info, err := os.Stat(path) // before Open, which would wait at a named pipe
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("digest %s: not a regular file", path)
	}
	h := sha256.New()
	if info.Size() > DigestLimit {
		fmt.Fprintf(h, "%d:%d", info.Size(), info.ModTime().UnixNano())
		return hex.EncodeToString(h.Sum(nil)), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("digest %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Match tells whether a path matches a pattern: path.Match for each element, and `**` for any number of elements,
// also none. A pattern without "/" matches a name anywhere in the path, so "*.log" and "node_modules" do what one
// expects; one that ends in "/**" matches what is below. A malformed pattern matches nothing.
func Match(pattern, name string) bool {
	name = filepath.ToSlash(name)
	if !strings.Contains(pattern, "/") {
		for elem := range strings.SplitSeq(name, "/") {
			if ok, _ := path.Match(pattern, elem); ok {
				return true
			}
		}
		return false
	}
	return matchElems(strings.Split(pattern, "/"), strings.Split(name, "/"))
}

// QuoteMatch makes a pattern of a path that matches just that path.
func QuoteMatch(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(filepath.ToSlash(path))
}

func matchElems(pattern, name []string) bool {
	for len(pattern) > 0 {
		if pattern[0] == "**" {
			for i := range len(name) + 1 {
				if matchElems(pattern[1:], name[i:]) {
					return true
				}
			}
			return false
		}
		if len(name) == 0 {
			return false
		}
		if ok, _ := path.Match(pattern[0], name[0]); !ok {
			return false
		}
		pattern, name = pattern[1:], name[1:]
	}
	return len(name) == 0
}
