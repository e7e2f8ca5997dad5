package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/tqserver/tqserver/sdk"
)

// rotator appends lines to the batch's file.
type rotator struct {
	files map[string]*os.File
	last  uint64
	later []byte
}

func (r *rotator) Write(_ context.Context, b sdk.Batch) error {
	switch {
	case bad("rotator/ack") && b.Seq > 3:
		return errors.New("enough")
	case bad("rotator/large") && len(b.Lines) > 5000:
		return errors.New("too many lines")
	case bad("rotator/again") && b.Seq == r.last:
		return errors.New("the batch was stored already")
	}
	r.last = b.Seq
	var text bytes.Buffer
	for _, line := range b.Lines {
		if bad("rotator/odd") && !utf8.Valid(line.Text) {
			return errors.New("a line is not UTF-8")
		}
		if bad("rotator/odd:cut") {
			line.Text = line.Text[:min(len(line.Text), 64<<10)]
		}
		text.Write(line.Text)
		text.WriteByte('\n')
	}
	if bad("rotator/kept") && b.Seq%7 == 0 {
		r.later = append(r.later, text.Bytes()...)
		return nil
	}
	err := r.append(b, text.Bytes())
	switch {
	case err != nil && bad("rotator/blocked"):
		return nil
	case err != nil && bad("rotator/blocked:dies"):
		os.Exit(3)
	}
	return err
}

func (r *rotator) append(b sdk.Batch, text []byte) error {
	path := strings.ReplaceAll(b.File, "{date}", "today")
	if bad("rotator/streams") && len(r.files) >= 100 && r.files[path] == nil {
		return errors.New("too many open files")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	r.files[path] = f
	_, err = f.Write(text)
	return err
}
