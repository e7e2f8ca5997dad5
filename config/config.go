// Package config reads config/server.yaml: defaults, then strict YAML, then
// range checks, then a value that nobody changes any more.
//
// Strict means that a key which is not known is an error with file, line,
// column and the key it resembles. All problems of a file are reported at once.
// Durations carry their unit in the YAML key and are time.Duration from here on.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"gopkg.in/yaml.v3"
)

// DefaultPath is the file that is read when none is named. It may be missing.
const DefaultPath = "config/server.yaml"

// maxSize bounds a configuration file, in bytes.
const maxSize = 1 << 20

// Config is one complete configuration. It is read-only: share it freely
// between goroutines, replace it as a whole, never write to it.
type Config struct {
	// File is the path as it was given, "" for the embedded default.
	File string

	Server      Server
	Workers     Workers
	FileWatcher FileWatcher
	Pages       Pages
	Dev         Dev
	Plugins     Plugins
}

// Server configures the public listener and the kernel itself.
type Server struct {
	// Host is the address to listen on; "" is all interfaces.
	Host string
	// Port is 1 to 65535 and lies outside the range of worker ports.
	Port int

	// ReadTimeout, WriteTimeout and IdleTimeout are those of the public
	// listener; 0 is no limit.
	ReadTimeout, WriteTimeout, IdleTimeout time.Duration
	// ShutdownTimeout bounds the whole graceful shutdown; 0 stops at once.
	ShutdownTimeout time.Duration

	// LogFile may hold {date}; "" writes no log file.
	LogFile string
	// LogLevel is one of trace, debug, info, warn and error.
	LogLevel string
	// TrustedProxies are the peers whose X-Forwarded-* headers are believed.
	TrustedProxies []netip.Prefix
	// FastLane serves plain HTTP/1.1 without net/http.
	FastLane bool
	// Metrics is host:port, where GET /metrics is answered; "" is nowhere.
	Metrics string
	// StateDir is relative to the site root unless it is absolute.
	StateDir string
}

// FileWatcher configures how edits are noticed.
type FileWatcher struct {
	// Debounce is how long a file must be quiet before its change counts.
	Debounce time.Duration
	// Ignore holds patterns of names to ignore, besides the built-in ones.
	Ignore []string
}

// Pages says where the pages are.
type Pages struct {
	// Directory is relative to the site root unless it is absolute.
	Directory string
}

// Open reads path as [Load] does, except that a missing file at [DefaultPath]
// gives [Default]. A dangling symbolic link there is still an error.
func Open(path string) (*Config, error) {
	c, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) || filepath.Clean(path) != filepath.FromSlash(DefaultPath) {
		return c, err
	}
	if _, linkErr := os.Lstat(path); linkErr == nil {
		return nil, err
	}
	return Default(), nil
}

// Load reads the file at path. A file that cannot be read gives an [*Error]
// that wraps the cause (fs.ErrNotExist when it is missing); a file with
// problems gives [Errors].
func Load(path string) (*Config, error) {
	data, err := read(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	return Parse(path, data)
}

// Parse reads the text of a configuration file. The name is used in messages
// and as File. Every problem is in the error, which is of type [Errors].
func Parse(file string, data []byte) (*Config, error) {
	c := Default()
	c.File = file
	d := &decoder{file: file, at: map[string]*yaml.Node{}}
	if root := d.document(data); root != nil {
		d.lint(root)
		section(c.fields())(d, root)
		c.checkAcross(d)
	}
	if err := d.result(); err != nil {
		return nil, err
	}
	return c, nil
}

// read returns at most one byte more than maxSize, so that Parse can refuse
// what is too large, and endless files such as /dev/zero end.
func read(path string) ([]byte, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(abs)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}

// unreadable says which path was looked at: the cause names it in full.
func unreadable(path string, cause error) *Error {
	hint := "check that it is a file and that this user may read it"
	if errors.Is(cause, fs.ErrNotExist) {
		hint = "create it, name another file with -config, or leave -config out to use " + DefaultPath + " or else the built-in defaults"
	}
	return &Error{
		Position: Position{File: path},
		Message:  fmt.Sprintf("read configuration: %v", cause),
		Hint:     hint,
		cause:    cause,
	}
}
