// Package rotator holds the rotators of the default bundle.
package rotator

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/sdk"
)

// FileConfig is the configuration of File.
type FileConfig struct {
	MaxSizeMB  int  `tq:"max_size_mb,default=50,min=0" doc:"a file rolls before it grows larger, in MB of 1,048,576 bytes; 0: never by size"`
	Keep       int  `tq:"keep,default=14,min=0" doc:"rolled files kept for each log; 0: all"`
	MaxAgeDays int  `tq:"max_age_days,default=30,min=0" doc:"rolled files last written to longer ago are removed; 0: never"`
	Compress   bool `tq:"compress,default=true" doc:"gzip rolled files"`
}

const (
	idleTime    = 30 * time.Second // then a file is closed
	openLimit   = 256              // files open at once
	writeBytes  = 256 << 10        // of one write(2)
	compressors = 2                // at once
)

var errClosed = errors.New("rotator/file: closed")

// File writes log lines to files that roll at midnight and by size, and compresses and removes the rolled ones in the
// background. Its methods are safe for concurrent use.
type File struct {
	log   hclog.Logger
	work  sync.WaitGroup // all goroutines
	slots chan struct{}  // of those that compress
	stop  chan struct{}  // closed by Close: compressing ends early

	mu       sync.Mutex
	config   FileConfig
	maxSize  int64 // bytes; 0: none
	started  bool  // the goroutine that looks after idle files and midnight
	drained  chan struct{}
	closed   bool
	families map[string]*family
	open     map[string]*handle // by path
	stored   ledger
	buf      []byte
	ends     []int // of the lines in buf
}

var (
	_ sdk.Rotator = (*File)(nil)
	_ sdk.Drainer = (*File)(nil)
	_ sdk.Logs    = (*File)(nil)
)

// NewFile makes a rotator with the default configuration. It starts nothing before the first Write.
func NewFile() *File {
	f := &File{log: hclog.NewNullLogger(), slots: make(chan struct{}, compressors), stop: make(chan struct{}),
		drained: make(chan struct{}), families: map[string]*family{}, open: map[string]*handle{}, stored: ledger{}}
	f.apply(FileConfig{MaxSizeMB: 50, Keep: 14, MaxAgeDays: 30, Compress: true})
	return f
}

// ServeFile runs a File as a plugin.
func ServeFile() {
	f := NewFile()
	sdk.Serve("file", sdk.Version, f, sdk.Config(f.Configure))
}

// SetLogger is to be called before anything else.
func (f *File) SetLogger(l hclog.Logger) { f.log = l }

// Configure applies to what is written from now on. Retention by new limits takes place when a file rolls next, or
// the day changes.
func (f *File) Configure(_ context.Context, c FileConfig) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.apply(c)
	return nil
}

func (f *File) apply(c FileConfig) {
	f.config = c
	f.maxSize = int64(c.MaxSizeMB) << 20
}

// Write appends the lines of a batch to the file of each line's own day. After nil all of them went through write(2).
// An error names the file; what is stored by then is remembered, and not stored again when the stream's next batch
// has the same Seq. A file never ends in a part of a line.
func (f *File) Write(ctx context.Context, b sdk.Batch) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errClosed
	}
	if !filepath.IsAbs(b.File) {
		return fmt.Errorf("store lines of %s: the path %q is not absolute", b.Stream, b.File)
	}
	f.start()
	p := f.stored.of(b)
	var err error
	fam := f.family(b)
	for !p.all && err == nil {
		if p.all = p.lines >= lineCount(b); p.all {
			break
		}
		if err = ctx.Err(); err == nil {
			var n int
			n, err = f.writeSome(fam, b, p.lines)
			p.lines += n
		}
	}
	f.stored.remember(b.Stream, p)
	return explain(err)
}

// Drain takes no more batches, closes the files, and waits for the compression of rolled ones. When ctx ends first,
// what is left to compress is left to the next start.
func (f *File) Drain(ctx context.Context) error {
	f.end()
	ended := make(chan struct{})
	go func() { f.work.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), f.Close())
	}
}

// Close closes the files and ends compression, which the next start takes up again.
func (f *File) Close() error {
	f.end()
	f.mu.Lock()
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
	f.mu.Unlock()
	f.work.Wait()
	return nil
}

func (f *File) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.closed = true
	close(f.drained)
	for _, h := range f.open {
		f.close(h)
	}
}

// start looks after idle files and midnight from now on.
func (f *File) start() {
	if !f.started {
		f.started = true
		f.work.Go(f.keepHouse)
	}
}

func (f *File) family(b sdk.Batch) *family {
	key := familyKey(b.File, b.Page)
	fam := f.families[key]
	if fam == nil {
		fam = newFamily(key)
		f.families[key] = fam
		f.tidy(fam)
	}
	return fam
}

// writeSome stores lines from the given one on that belong to one file, and tells how many.
func (f *File) writeSome(fam *family, b sdk.Batch, from int) (int, error) {
	day := dayOf(b, from)
	h, err := f.handle(fam, day)
	if err != nil {
		return 0, err
	}
	f.buf = appendLine(f.buf[:0], b, from)
	if f.full(h, len(f.buf)) && f.roll(h) {
		if h, err = f.handle(fam, day); err != nil {
			return 0, err
		}
	}
	f.ends = append(f.ends[:0], len(f.buf))
	midnight, next := dayAround(b, from)
	for i := from + 1; i < lineCount(b) && len(f.buf) < writeBytes; i++ {
		if l, _ := lineAt(b, i); l.Time.Before(midnight) || !l.Time.Before(next) {
			break // of another day
		}
		end := len(f.buf)
		f.buf = appendLine(f.buf, b, i)
		if f.maxSize > 0 && h.size+int64(len(f.buf)) > f.maxSize {
			f.buf = f.buf[:end]
			break
		}
		f.ends = append(f.ends, len(f.buf))
	}
	n, err := h.write(f.buf, f.ends)
	if err != nil {
		f.close(h)
	}
	if cap(f.buf) > 2*writeBytes {
		f.buf = nil
	}
	return n, err
}

// full tells whether a file is to roll before n more bytes.
func (f *File) full(h *handle, n int) bool {
	return f.maxSize > 0 && h.size > 0 && h.size+int64(n) > f.maxSize && !time.Now().Before(h.rollAfter)
}

// explain says what to do. An error's text may hold the bytes of a path, which gRPC takes as UTF-8 only.
func explain(err error) error {
	hint := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		hint = " (free space there; the lines are kept meanwhile)"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EPERM):
		hint = " (make it writable for the user that runs tqserver, or change log_file)"
	case errors.Is(err, syscall.ELOOP):
		hint = " (the log file itself may not be a symbolic link)"
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENAMETOOLONG):
		hint = " (change log_file)"
	}
	if hint == "" && strings.ToValidUTF8(err.Error(), "") == err.Error() {
		return err
	}
	return storeError{err, strings.ToValidUTF8(err.Error(), "\uFFFD") + hint}
}

type storeError struct {
	error
	text string
}

func (e storeError) Error() string { return e.text }
func (e storeError) Unwrap() error { return e.error }
