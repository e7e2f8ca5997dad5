package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tqserver/tqserver/sdk"
)

// rotator appends every line to one file.
type rotator struct{ file string }

func (r *rotator) Write(_ context.Context, b sdk.Batch) error {
	var text bytes.Buffer
	for _, l := range b.Lines {
		fmt.Fprintf(&text, "%s %s | %s\n", b.Stream, l.Source, l.Text)
	}
	if err := os.MkdirAll(filepath.Dir(r.file), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(r.file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(text.Bytes())
	return errors.Join(err, f.Close())
}
