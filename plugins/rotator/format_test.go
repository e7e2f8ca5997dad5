package rotator

import (
	"testing"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

func TestLineFormat(t *testing.T) {
	at := time.Date(2026, 1, 31, 12, 0, 0, 1000, time.Local)
	zone := at.Format("Z07:00")
	for _, tc := range []struct {
		b    sdk.Batch
		text string
		want string
	}{
		{sdk.Batch{Page: "api/users", Worker: "w7", Release: "1a2b3c4d5e6f"}, "hello", "stdout api/users w7 1a2b3c4d | hello"},
		{sdk.Batch{Page: "my page", Release: "1a"}, "tab\tstays", `stdout my\x20page - 1a | tab` + "\tstays"},
		{sdk.Batch{Page: "p\nq"}, "a\nb\rc\r", `stdout p\x0aq - - | a\x0ab\x0dc`},
		{sdk.Batch{Page: "p"}, "\x1b[31mred\x00\x7f", `stdout p - - | \x1b[31mred\x00\x7f`},
		{sdk.Batch{Page: "p"}, "ok ü 世 \xff\xc3", `stdout p - - | ok ü 世 \xff\xc3`},
		{sdk.Batch{Page: "p"}, "\u0085\u2028\u202a\ufffd", `stdout p - - | \u0085\u2028` + "\u202a\ufffd"},
	} {
		tc.b.Lines = []sdk.Line{{Time: at, Source: sdk.Stdout, Text: []byte(tc.text)}}
		want := "2026-01-31T12:00:00.000001" + zone + " " + tc.want + "\n"
		if got := string(appendLine(nil, tc.b, 0)); got != want {
			t.Errorf("line is %q, want %q", got, want)
		}
	}
	b := sdk.Batch{Lines: []sdk.Line{{Time: at, Source: sdk.Kernel, Text: []byte("time=x msg=y")}}}
	if got := string(appendLine(nil, b, 0)); got != "time=x msg=y\n" {
		t.Errorf("line of the kernel is %q", got)
	}
}

func TestFamilyKey(t *testing.T) {
	for _, tc := range [][3]string{
		{"/l/{path}/w_{date}.log", "api/users", "/l/api/users/w_{date}.log"},
		{"/l/{path}/w.log", "../../etc", "/l/__/__/etc/w.log"},
		{"/l/{path}.log", "a//./b", "/l/a/_/b.log"},
		{"/l/{path}.log", "", "/l/_.log"},
		{"/l/{path}.log", "{date}\x00", "/l/_date__.log"},
		{"/l/{path}.log", "{path}", "/l/{path}.log"},
		{"/l/../s_{date}.log", "x", "/s_{date}.log"},
	} {
		if got := familyKey(tc[0], tc[1]); got != tc[2] {
			t.Errorf("%s of page %q is %s, want %s", tc[0], tc[1], got, tc[2])
		}
	}
}

func TestFamilyMatch(t *testing.T) {
	for _, tc := range []struct {
		key, path, day string
		number         int
		suffix         string
		ok             bool
	}{
		{"/l/s_{date}.log", "/l/s_2026-01-31.log", "2026-01-31", 0, "", true},
		{"/l/s_{date}.log", "/l/s_2026-01-31.12.log", "2026-01-31", 12, "", true},
		{"/l/s_{date}.log", "/l/s_2026-01-31.12.log.gz", "2026-01-31", 12, ".gz", true},
		{"/l/s_{date}.log", "/l/s_2026-01-31.12.log.gz.tmp", "2026-01-31", 12, ".gz.tmp", true},
		{"/l/s_{date}.log", "/l/s_2026-01-31.log.gz", "", 0, "", false},
		{"/l/s_{date}.log", "/l/s_2026-01-31.012.log", "", 0, "", false},
		{"/l/s_{date}.log", "/l/s_2026-1-31.log", "", 0, "", false},
		{"/l/s_{date}.log", "/l/ss_2026-01-31.log", "", 0, "", false},
		{"/l/{date}/s.{date}", "/l/2026-01-31/s.2026-01-31.3", "2026-01-31", 3, "", true},
		{"/l/{date}/s.{date}", "/l/2026-01-30/s.2026-01-31.3", "", 0, "", false},
		{"/l/s+.log", "/l/s+.1.log", "", 1, "", true},
		{"/l/s+.log", "/l/ss.1.log", "", 0, "", false},
		{"/l/s", "/l/s.1.gz", "", 1, ".gz", true},
	} {
		got, ok := newFamily(tc.key).match(tc.path)
		if ok != tc.ok || ok && (got.day != tc.day || got.number != tc.number || got.suffix != tc.suffix) {
			t.Errorf("%s in %s: %+v %v", tc.path, tc.key, got, ok)
		}
	}
}
