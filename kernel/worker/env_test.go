package worker

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEnviron(t *testing.T) {
	own := []string{
		"PATH=/bin", "HOME=/home/me", "USER=me", "LOGNAME=me", "LANG=C", "LC_ALL=C", "LC_TIME=de", "TZ=UTC", "TMPDIR=/t",
		"SSL_CERT_FILE=/c.pem", "SSL_CERT_DIR=/c", "AWS_SECRET_ACCESS_KEY=x", "TQ_PORT=1", "TQ_TOKEN=x", "LD_PRELOAD=/x.so",
		"GOMAXPROCS=64", "GOMEMLIMIT=1GiB", "HTTP_PROXY=http://x", "malformed",
	}
	got := environ(own, Spec{
		Page: "api", Route: "/api", PageDir: "/site/pages/api", Release: "r1", Port: 9001,
		GoMaxProcs: 2, GoMemLimit: "256MiB", MaxRequests: 5000,
		ReadTimeout: 15 * time.Second, WriteTimeout: 1500 * time.Millisecond, Grace: 500 * time.Millisecond, LogFile: "logs/api.log",
		Env: []string{"DSN=a=b", "LANG=de", "TQ_PORT=2", "TQ_MINE=x", "GOMAXPROCS=8", "=x", "EMPTY="},
	})
	want := strings.Fields(`DSN=a=b EMPTY= GOMAXPROCS=2 GOMEMLIMIT=256MiB HOME=/home/me LANG=de LC_ALL=C LC_TIME=de LOGNAME=me PATH=/bin
		SSL_CERT_DIR=/c SSL_CERT_FILE=/c.pem TMPDIR=/t TQ_IDLE_TIMEOUT_SECONDS=0 TQ_LOG_FILE=logs/api.log TQ_MAX_REQUESTS=5000
		TQ_PAGE=api TQ_PAGE_DIR=/site/pages/api TQ_PORT=9001 TQ_READY_FD=3 TQ_READ_TIMEOUT_SECONDS=15 TQ_RELEASE=r1 TQ_ROUTE=/api
		TQ_SHUTDOWN_GRACE_PERIOD_MS=500 TQ_WRITE_TIMEOUT_SECONDS=2 TZ=UTC USER=me`)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestEnvironLeavesOutWhatIsNotSet(t *testing.T) {
	for _, entry := range environ(nil, Spec{}) {
		if !strings.HasPrefix(entry, "TQ_") {
			t.Errorf("%q is set", entry)
		}
	}
	if got := environ(nil, Spec{Env: []string{"GOMAXPROCS=8"}}); !slices.Contains(got, "GOMAXPROCS=8") {
		t.Errorf("GOMAXPROCS of the configuration is lost: %q", got)
	}
}

// The process really gets this and nothing else: environment, directory, standard input, descriptors.
func TestProcessInheritsNothingElse(t *testing.T) {
	t.Setenv("TQ_SECRET", "x")
	t.Setenv("DATABASE_URL", "x")
	dir := t.TempDir()
	w, out := run(t, "report", func(s *Spec) { s.Dir = dir })
	mustEnd(t, w)
	want := append(environ(nil, w.spec), inheritedNow()...)
	slices.Sort(want)
	want = append(want, "dir "+dir, `stdin "" <nil>`, "fds [0 1 2 3]")
	if got := out.get(Stdout); !slices.Equal(got, want) {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
}

func inheritedNow() []string {
	var entries []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if slices.Contains(inherited, name) || strings.HasPrefix(name, "LC_") {
			entries = append(entries, entry)
		}
	}
	return entries
}
