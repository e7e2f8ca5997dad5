package stage

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// fault is why a configured file is not executed: which key of the entry it concerns, what is wrong, what to do.
type fault struct{ key, message, hint string }

// pin is the hash that a file must have, and who says so; the zero value is any.
type pin struct {
	sha256 string
	by     string // completes "the file's hash is X, …"
	key    string // of the entry, that an error is about
	hint   string
}

// privateCopy copies an executable to <stateDir>/plugins/<sha256>/plugin, which only this user can change, and returns
// that path and the hash. The hash is of the bytes that were written there.
func privateCopy(source io.Reader, want pin, stateDir string) (path, sum string, f *fault) {
	dir, err := filepath.Abs(filepath.Join(stateDir, "plugins"))
	if err == nil {
		err = privateDir(dir)
	}
	if err != nil {
		return "", "", storeFault(err)
	}
	temp, sum, err := copyHashed(source, dir)
	if err != nil {
		return "", "", storeFault(err)
	}
	defer os.Remove(temp) // nothing is there after the rename
	if want.sha256 != "" && sum != want.sha256 {
		return "", "", &fault{want.key, fmt.Sprintf("the file's hash is %s, %s %s", sum, want.by, want.sha256), want.hint}
	}
	target := filepath.Join(dir, sum, "plugin")
	if err = privateDir(filepath.Dir(target)); err == nil {
		err = os.Rename(temp, target)
	}
	if err != nil {
		return "", "", storeFault(err)
	}
	return target, sum, nil
}

func storeFault(err error) *fault {
	return &fault{"use", fmt.Sprintf("keep a private copy: %v", err), "make server.state_dir a directory that tqserver owns, on a disk with free space"}
}

// openExecutable opens a file that is fit to be executed: regular, executable, and not open to changes by every user
// of the machine, neither itself nor by a file put in its place.
func openExecutable(path string) (*os.File, *fault) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &fault{"use", fmt.Sprintf("there is no file %s", path), "build the plugin, or correct the path; it is relative to the site's root"}
	}
	if err != nil {
		return nil, &fault{"use", err.Error(), "make the file readable to the user that runs tqserver"}
	}
	file, err := os.Stat(real)
	if err == nil && !file.Mode().IsRegular() {
		return nil, &fault{"use", fmt.Sprintf("%s is not a regular file", path), "give the path of an executable file"}
	}
	var dir fs.FileInfo
	if err == nil {
		dir, err = os.Stat(filepath.Dir(real))
	}
	switch {
	case err != nil:
		return nil, &fault{"use", err.Error(), "make the file readable to the user that runs tqserver"}
	case file.Mode().Perm()&0o111 == 0:
		return nil, &fault{"use", fmt.Sprintf("%s is not executable", path), "chmod +x " + path}
	case file.Mode().Perm()&0o002 != 0:
		return nil, &fault{"use", fmt.Sprintf("every user may change %s", path), "chmod o-w " + path}
	case dir.Mode().Perm()&0o002 != 0 && dir.Mode()&fs.ModeSticky == 0:
		return nil, &fault{"use", fmt.Sprintf("every user may replace files in %s", filepath.Dir(real)), "chmod o-w " + filepath.Dir(real)}
	}
	f, err := os.Open(real)
	if err != nil {
		return nil, &fault{"use", err.Error(), "make the file readable to the user that runs tqserver"}
	}
	return f, nil
}

// copyHashed copies source to a new file in dir, mode 0500, and returns its path and the SHA-256 in hex.
func copyHashed(source io.Reader, dir string) (path, sum string, err error) {
	temp, err := os.CreateTemp(dir, ".copy-*")
	if err != nil {
		return "", "", err
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(temp, hash), source)
	if err = errors.Join(err, temp.Chmod(0o500), temp.Sync(), temp.Close()); err != nil {
		return "", "", errors.Join(err, os.Remove(temp.Name()))
	}
	return temp.Name(), hex.EncodeToString(hash.Sum(nil)), nil
}
