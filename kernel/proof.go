package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/tqserver/tqserver/sdk"
)

// proof shows that a binary is what the builder built. Reading it takes longer than starting it, so that both go on at
// once: a worker gets no request before its binary is proven.
type proof struct {
	done chan struct{}
	err  error // valid when done is closed
}

// artifactError says that a binary is not what was built.
type artifactError struct{ error }

func (e *artifactError) Unwrap() error { return e.error }

// prove begins to compare a binary with what the builder said of it.
func (p *page) prove(r sdk.Result) *proof {
	proof := &proof{done: make(chan struct{})}
	p.work.Go(func() {
		defer close(proof.done)
		proof.err = checkSum(r)
	})
	return proof
}

// wait gives an [*artifactError] when the binary is another one, and the error of ctx when that ends first. A binary
// that has served before has no proof, and needs none.
func (p *proof) wait(ctx context.Context) error {
	if p == nil {
		return nil
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// checkSum reads the binary of a build that went well.
func checkSum(r sdk.Result) error {
	sum, err := fileSum(r.Artifact)
	switch {
	case err != nil:
		return &artifactError{fmt.Errorf("check the built binary: %w", err)}
	case sum != r.SHA256:
		return &artifactError{fmt.Errorf("check the built binary: %s has the sum %.12s…, the builder said %.12s…", r.Artifact, sum, r.SHA256)}
	}
	return nil
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
