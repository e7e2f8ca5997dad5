package stagetest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

const (
	writeLimit  = 5 * time.Second // for one batch
	manyStreams = 300
	manyLines   = 10_000
	keptBatches = 40 // of keptLines each, about 3 MiB in all
	keptLines   = 250
	bigLine     = 1 << 20
)

func rotatorChecks() []check {
	c := func(name, doc, hint string, run func(context.Context, *trial) error) check {
		return check{suite: "rotator", name: name, doc: doc, hint: see(hint, "rotator"), run: run}
	}
	return []check{
		c("ack", "each batch is acknowledged with its own number", "answer with the seq of the batch, and without an error once its lines are in the hands of the operating system", checkAcks),
		c("kept", "no acknowledged line is lost when the plugin is killed, also where files were rotated", "write before you acknowledge: the kernel forgets what was acknowledged", checkKept),
		c("again", "a batch that comes again is acknowledged again", "the kernel repeats a batch whose answer it did not get, also to a new process", checkBatchAgain),
		c("odd", "empty lines, lines of 1 MiB, and bytes that are not UTF-8 are taken", "a line is any bytes without a newline", checkOddLines),
		c("large", "a batch of 10,000 lines is taken", "take messages of up to 16 MiB", checkLargeBatch),
		c("streams", "300 streams are written at once", "do not keep a file open for each stream for ever", checkManyStreams),
		c("blocked", "a destination that cannot be written to is an error, not an acknowledgement, and is taken again when it can be", "answer with WriteResponse.error: the kernel keeps the lines and sends them again", checkBlocked),
	}
}

// rotating sends batches to a rotator.
type rotating struct {
	t   *trial
	s   *subject
	seq uint64
}

func openRotator(_ context.Context, t *trial, s *subject) (session, error) {
	return &rotating{t: t, s: s}, nil
}

func (r *rotating) close() {}

func (r *rotating) exchange(ctx context.Context) error {
	return r.write(ctx, r.batch("page", r.numbered(20)...))
}

// rotator starts a plugin.
func (t *trial) rotator(ctx context.Context) (*rotating, error) {
	s, err := t.ready(ctx)
	return &rotating{t: t, s: s}, err
}

// batch makes the next batch.
func (r *rotating) batch(stream string, lines ...string) sdk.Batch {
	r.seq++
	b := sdk.Batch{Seq: r.seq, Stream: stream, Page: stream, Release: "0123456789abcdef", Worker: "w1",
		File: filepath.Join(r.t.work, "logs", stream+"_{date}.log")}
	for _, line := range lines {
		b.Lines = append(b.Lines, sdk.Line{Time: time.Now(), Source: sdk.Stdout, Text: []byte(line)})
	}
	return b
}

// numbered gives lines of which no two are the same.
func (r *rotating) numbered(n int) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf("tqline-%d-%d; %s", r.seq+1, i, strings.Repeat("x", 280))
	}
	return lines
}

var lineNumber = regexp.MustCompile(`tqline-\d+-\d+;`)

func (r *rotating) write(ctx context.Context, b sdk.Batch) error {
	return r.t.limit(ctx, writeLimit, fmt.Sprintf("Write of batch %d", b.Seq), func(ctx context.Context) error {
		return sdk.NewRotator(r.s.conn).Write(ctx, b)
	})
}

// output gives all that is in the files where the lines appear. What a plugin renames or compresses meanwhile could be
// missed, or read twice: it is read again until the files are the same before and after.
func (t *trial) output() (string, error) {
	files, err := t.outputFiles()
	if err != nil {
		return "", err
	}
	for range 100 {
		var all strings.Builder
		for _, file := range files {
			text, err := readLog(file)
			if err != nil {
				return "", err
			}
			all.Write(text)
		}
		before := files
		if files, err = t.outputFiles(); err != nil || slices.Equal(before, files) {
			return all.String(), err
		}
	}
	return "", fmt.Errorf("the files %v do not come to rest", t.outputs)
}

func (t *trial) outputFiles() (all []string, err error) {
	for _, pattern := range t.outputs {
		if pattern == ServerOutput {
			pattern = t.serverOutput()
		}
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(t.work, pattern)
		}
		files, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("the pattern of output files %q: %w", pattern, err)
		}
		all = append(all, files...)
	}
	return all, nil
}

// readLog reads a file, compressed or not. One that is being written, or was removed meanwhile, counts as far as it
// goes.
func readLog(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.EISDIR) {
		return nil, nil
	}
	if err != nil || filepath.Ext(file) != ".gz" {
		return text, err
	}
	in, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		return nil, nil // not begun
	}
	text, _ = io.ReadAll(in)
	return text, nil
}

// missing counts the lines of batches that are not in the output, and gives the first.
func (t *trial) missing(batches []sdk.Batch) (n int, first string, err error) {
	text, err := t.output()
	if err != nil {
		return 0, "", err
	}
	found := map[string]bool{}
	for _, number := range lineNumber.FindAllString(text, -1) {
		found[number] = true
	}
	for _, b := range batches {
		for _, line := range b.Lines {
			number := string(lineNumber.Find(line.Text))
			if found[number] || number == "" && strings.Contains(text, string(line.Text)) {
				continue
			}
			if n == 0 {
				first = fmt.Sprintf("batch %d, %q", b.Seq, shorten(string(line.Text)))
			}
			n++
		}
	}
	return n, first, nil
}

func (t *trial) needsOutput() error {
	if len(t.outputs) > 0 {
		return nil
	}
	return skipError("it is not known where the lines appear: give patterns of the files (Plugin.Output, --output)")
}

func checkAcks(ctx context.Context, t *trial) error {
	r, err := t.rotator(ctx)
	if err != nil {
		return err
	}
	for range 20 {
		if err := r.exchange(ctx); err != nil {
			return err
		}
	}
	return nil
}

func checkKept(ctx context.Context, t *trial) error {
	if err := t.needsOutput(); err != nil {
		return err
	}
	r, err := t.rotator(ctx)
	if err != nil {
		return err
	}
	var acked []sdk.Batch
	for range keptBatches {
		b := r.batch("page", r.numbered(keptLines)...)
		if err := r.write(ctx, b); err != nil {
			return err
		}
		acked = append(acked, b)
	}
	r.s.proc.killAll()
	n, first, err := t.missing(acked)
	if err == nil && n > 0 {
		err = fmt.Errorf("%d of %d acknowledged lines are not in %v after the plugin was killed; the first: %s", n, keptBatches*keptLines, t.outputs, first)
	}
	return err
}

func checkBatchAgain(ctx context.Context, t *trial) error {
	r, err := t.rotator(ctx)
	if err != nil {
		return err
	}
	b := r.batch("page", r.numbered(10)...)
	for range 2 {
		if err := r.write(ctx, b); err != nil {
			return err
		}
	}
	r.s.proc.killAll()
	if r.s, err = t.ready(ctx); err != nil {
		return err
	}
	if err := r.write(ctx, b); err != nil {
		return fmt.Errorf("to a new process: %w", err)
	}
	return r.exchange(ctx)
}

func checkOddLines(ctx context.Context, t *trial) error {
	r, err := t.rotator(ctx)
	if err != nil {
		return err
	}
	for _, lines := range [][]string{{""}, {"", "\xff\xfe\x00 not UTF-8 \x1b[31m", "\r", "{date} {path} %s"}, {strings.Repeat("y", bigLine)}, nil} {
		if err := r.write(ctx, r.batch("odd", lines...)); err != nil {
			return err
		}
	}
	last := r.batch("odd", r.numbered(1)...)
	if err := r.write(ctx, last); err != nil {
		return err
	}
	if t.needsOutput() != nil {
		return nil
	}
	n, first, err := t.missing([]sdk.Batch{last, {Lines: []sdk.Line{{Text: bytes.Repeat([]byte("y"), bigLine)}}}})
	if err == nil && n > 0 {
		err = fmt.Errorf("a line that was acknowledged is not in %v: %s", t.outputs, first)
	}
	return err
}

func checkLargeBatch(ctx context.Context, t *trial) error {
	r, err := t.rotator(ctx)
	if err != nil {
		return err
	}
	return r.write(ctx, r.batch("page", r.numbered(manyLines)...))
}

func checkManyStreams(ctx context.Context, t *trial) error {
	r, err := t.rotator(ctx)
	if err != nil {
		return err
	}
	var acked []sdk.Batch
	for range 2 {
		for i := range manyStreams {
			b := r.batch(fmt.Sprintf("page%d", i), r.numbered(1)...)
			if err := r.write(ctx, b); err != nil {
				return err
			}
			acked = append(acked, b)
		}
	}
	if t.needsOutput() != nil {
		return nil
	}
	n, first, err := t.missing(acked)
	if err == nil && n > 0 {
		err = fmt.Errorf("%d of %d acknowledged lines are not in %v; the first: %s", n, len(acked), t.outputs, first)
	}
	return err
}

func checkBlocked(ctx context.Context, t *trial) error {
	if err := t.needsOutput(); err != nil {
		return err
	}
	r, err := t.rotator(ctx)
	if err != nil {
		return err
	}
	b := r.batch("blocked", r.numbered(3)...)
	block := filepath.Join(t.work, "blocked")
	b.File = filepath.Join(block, "page_{date}.log") // below a file: the directory cannot be made
	t.outputs = append(t.outputs, filepath.Join(block, "*"))
	if err := os.WriteFile(block, nil, 0o644); err != nil {
		return err
	}
	if err := r.write(ctx, b); err == nil {
		n, first, err := t.missing([]sdk.Batch{b})
		switch {
		case err != nil:
			return err
		case n > 0:
			return fmt.Errorf("a batch whose file %s cannot be made was acknowledged; where is %s?", b.File, first)
		}
		return skipError("the plugin writes to a place of its own, which the suite cannot block")
	}
	if err := r.s.check(ctx, callLimit, 1); err != nil {
		return fmt.Errorf("after a batch whose file %s cannot be made: %w", b.File, r.s.died(ctx, err))
	}
	if err := os.Remove(block); err != nil {
		return err
	}
	if err := r.write(ctx, b); err != nil {
		return fmt.Errorf("sent again when the file can be made: %w", err)
	}
	n, first, err := t.missing([]sdk.Batch{b})
	if err == nil && n > 0 {
		err = fmt.Errorf("a line that was acknowledged at last is nowhere: %s", first)
	}
	return err
}
