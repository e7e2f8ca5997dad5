package worker

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// socketPath is free, and short enough.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tq") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func TestServesOnASocket(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	p := serve(t, "serve", "TQ_PORT=", "TQ_SOCKET="+path)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}}}
	for from, want := range map[string]string{"/": "hello", "/peer": "127.0.0.1:0"} {
		res, err := client.Get("http://page" + from)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if string(body) != want || err != nil {
			t.Errorf("%s answered %q, %v; want %q", from, body, err, want)
		}
	}
	if p.stderr.has("TQ_PORT") {
		t.Errorf("it believes that it was started by hand: %s", p.stderr.String())
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(t); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its socket is still there: %v", err)
	}
}

func TestSocketTaken(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := launch(t, "serve", "TQ_SOCKET="+path)
	if err := p.wait(t); err == nil || !p.stderr.has(path) || !p.stderr.has("page /test") {
		t.Errorf("exit %v, stderr %q; want an error naming page and socket", err, p.stderr.String())
	}
}
