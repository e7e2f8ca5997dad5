package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a kernel with one page and a log.
type fake struct {
	reload  error
	stopped chan struct{}
	live    chan LogLine
}

func (f *fake) Status() Status {
	return Status{Version: "1", State: "serving", Pages: []Page{{Name: "index", Route: "/", Workers: []Worker{{ID: "index#1", Port: 9000}}}}}
}
func (f *fake) Reload(context.Context) error { return f.reload }
func (f *fake) ReloadPlugins(_ context.Context, stages []string, force bool) (out []PluginOutcome) {
	for _, s := range stages {
		out = append(out, PluginOutcome{Stage: s, Error: fmt.Sprintf("force=%v", force)})
	}
	return out
}
func (f *fake) Releases(page string) (PageReleases, error) {
	if page != "index" {
		return PageReleases{}, fmt.Errorf("no page %q", page)
	}
	return PageReleases{Page: page, Releases: []Release{{ID: "1234", State: "live"}}}, nil
}
func (f *fake) Rollback(_ context.Context, page, release string) (RolledBack, error) {
	if release == "no" {
		return RolledBack{}, fmt.Errorf("no release %q", release)
	}
	return RolledBack{Page: page, Release: release, TookMS: 1.5}, nil
}
func (f *fake) Stop() { close(f.stopped) }
func (f *fake) Recent(stream string, n int) []LogLine {
	return []LogLine{{Time: time.Unix(1, 0), Stream: stream, Text: "old"}, {Time: time.Unix(2, 0), Stream: stream, Text: "recent"}}[2-min(n, 2):]
}

func (f *fake) Follow(ctx context.Context, stream string) <-chan LogLine {
	out := make(chan LogLine)
	go func() {
		defer close(out)
		for {
			select {
			case l := <-f.live:
				out <- l
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// serve runs the API of a kernel and gives a client that found it by its note.
func serve(t *testing.T, k Kernel) (*Client, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "c") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	lis, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, lis, k) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	note, _ := json.Marshal(Address{PID: 7, Socket: socket})
	if err := os.WriteFile(filepath.Join(dir, Note), note, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c, socket
}

func TestClientSpeaksToServer(t *testing.T) {
	f := &fake{stopped: make(chan struct{})}
	c, socket := serve(t, f)
	s, err := c.Status(t.Context())
	if err != nil || s.State != "serving" || s.Pages[0].Workers[0].Port != 9000 {
		t.Errorf("status %+v, %v", s, err)
	}
	if err := c.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	f.reload = errors.New("config/server.yaml:3:1: unknown key")
	if err := c.Reload(t.Context()); err == nil || err.Error() != f.reload.Error() {
		t.Errorf("refused reload: %v", err)
	}
	for _, force := range []bool{false, true} {
		got, err := c.ReloadPlugins(t.Context(), []string{"resolver", "builder"}, force)
		want := []PluginOutcome{{Stage: "resolver", Error: fmt.Sprintf("force=%v", force)}, {Stage: "builder", Error: fmt.Sprintf("force=%v", force)}}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("plugins: %+v, %v", got, err)
		}
	}
	if got, err := c.Releases(t.Context(), "index"); err != nil || len(got.Releases) != 1 || got.Releases[0].ID != "1234" {
		t.Errorf("releases: %+v, %v", got, err)
	}
	if _, err := c.Releases(t.Context(), "a b"); err == nil || err.Error() != `no page "a b"` {
		t.Errorf("releases of no page: %v", err)
	}
	if got, err := c.Rollback(t.Context(), "index", "12"); err != nil || got != (RolledBack{Page: "index", Release: "12", TookMS: 1.5}) {
		t.Errorf("rollback: %+v, %v", got, err)
	}
	if _, err := c.Rollback(t.Context(), "index", "no"); err == nil || err.Error() != `no release "no"` {
		t.Errorf("rollback to no release: %v", err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	<-f.stopped
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket has mode %v, %v", info.Mode(), err)
	}
}

func TestLogsEndUnlessFollowed(t *testing.T) {
	f := &fake{live: make(chan LogLine)}
	c, _ := serve(t, f)
	var got []string
	if err := c.Logs(t.Context(), "index", 1, false, func(l LogLine) { got = append(got, l.Stream+":"+l.Text) }); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, " ") != "index:recent" {
		t.Errorf("got %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		f.live <- LogLine{Time: time.Unix(2, 0), Text: "recent"} // was shown already
		f.live <- LogLine{Time: time.Unix(3, 0), Text: "new"}
	}()
	got = nil
	err := c.Logs(ctx, "index", 2, true, func(l LogLine) {
		if got = append(got, l.Text); l.Text == "new" {
			cancel()
		}
	})
	if err != nil || strings.Join(got, " ") != "old recent new" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestNoServer(t *testing.T) {
	dir := t.TempDir()
	if _, err := Find(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("without a note: %v", err)
	}
	note, _ := json.Marshal(Address{PID: 7, Socket: filepath.Join(dir, "gone")})
	if err := os.WriteFile(filepath.Join(dir, Note), note, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("with the note of a killed server: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, Note), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(dir); err == nil || !strings.Contains(err.Error(), Note) {
		t.Errorf("with a broken note: %v", err)
	}
}

func TestSocketPathIsTooLong(t *testing.T) {
	_, err := Listen(filepath.Join(t.TempDir(), strings.Repeat("x", 100)))
	if err == nil || !strings.Contains(err.Error(), "set a shorter TMPDIR or XDG_RUNTIME_DIR") {
		t.Errorf("got %v", err)
	}
}
