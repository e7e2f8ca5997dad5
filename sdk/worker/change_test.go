package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kernelEnd is the other end of a worker's pipe.
type kernelEnd struct {
	t    *testing.T
	pipe *os.File
	in   *bufio.Reader
}

// inherit gives a runtime its end of a pipe, as a process gets it, and returns the kernel's.
func inherit(t *testing.T, rt *Runtime) *os.File {
	t.Helper()
	kernel, own := socketPair(t)
	t.Cleanup(func() { kernel.Close() })
	kernel.SetDeadline(time.Now().Add(patience))
	fd, err := syscall.Dup(int(own.Fd()))
	own.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TQ_READY_FD", strconv.Itoa(fd))
	if rt.ready, err = takeReadyPipe(); err != nil {
		t.Fatal(err)
	}
	return kernel
}

// announced gives the kernel's end of a runtime that has said that it is ready.
func announced(t *testing.T, rt *Runtime) *kernelEnd {
	t.Helper()
	kernel := inherit(t, rt)
	release, err := rt.announce()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return &kernelEnd{t, kernel, bufio.NewReader(kernel)}
}

func (k *kernelEnd) says(words string) {
	k.t.Helper()
	if _, err := k.pipe.WriteString(words); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kernelEnd) wants(lines ...string) {
	k.t.Helper()
	for _, want := range lines {
		got, err := k.in.ReadString('\n')
		if err != nil || strings.TrimSuffix(got, "\n") != want {
			k.t.Fatalf("the worker says %q, %v; want %q", got, err, want)
		}
	}
}

// place is an error with a place.
type place struct{ file string }

func (p place) Error() string                { return p.file + ":7: wrong" }
func (p place) Fault() (string, int, string) { return p.file, 7, "wrong" }

func TestOnChange(t *testing.T) {
	rt := &Runtime{PageDir: "/site/pages/a"}
	var told []string
	var fault error
	rt.OnChange("", func(files []string) error {
		told = append(told, fmt.Sprintf("page %q %v", files, files == nil))
		return nil
	})
	rt.OnChange("views/", func(files []string) error {
		told = append(told, fmt.Sprintf("views %q", files))
		return fault
	})
	rt.OnChange("/site/pages/_shared", func([]string) error { panic("lost") })
	k := announced(t, rt)
	k.wants(`1watch "/site/pages/a"`, `watch "/site/pages/a/views"`, `watch "/site/pages/_shared"`)

	k.says(`changed 1 "/site/pages/a/views2/x" "/site/pages/a/vi\"ews"` + "\n")
	k.wants("done 1")
	fault = errors.Join(fmt.Errorf("parse: %w", place{"/site/b"}), errors.New(strings.Repeat("x", 2*longestFault)))
	k.says(`changed 2 "/site/pages/a/views/x"` + "\n")
	long := `fault 2 "" 0 "` + strings.Repeat("x", longestFault) + `"`
	k.wants(`fault 2 "/site/b" 7 "wrong"`, long, "done 2")
	k.says(`changed 3 "/site/pages/a/main.css"` + "\n") // whom it does not concern is not called, and is as wrong as before
	k.wants(`fault 3 "/site/b" 7 "wrong"`, strings.Replace(long, "2", "3", 1), "done 3")
	fault = nil
	k.says("rescan 4\n")
	k.wants(`fault 4 "" 0 "panic: lost"`, "done 4")
	want := []string{`page ["/site/pages/a/views2/x" "/site/pages/a/vi\"ews"] false`, `page ["/site/pages/a/views/x"] false`,
		`views ["/site/pages/a/views/x"]`, `page ["/site/pages/a/main.css"] false`, `page [] true`, `views []`}
	if !slices.Equal(told, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
}

// Words of another kernel are passed over, and what it says after them is heard.
func TestWordsOfANewerKernel(t *testing.T) {
	rt := &Runtime{PageDir: "/a"}
	rt.OnChange("", func([]string) error { return nil })
	k := announced(t, rt)
	k.wants(`1watch "/a"`)
	k.says("hello\n\nchanged 1 \"\n" + strings.Repeat("long ", longestLine) + "\nrescan 2\n")
	k.wants("done 2")
	k.says("0")
	<-rt.Done()
	k.says("0rescan 3\n") // a worker that ends its requests still hears
	k.wants("done 3")
}

// A wish that comes late is told at once.
func TestOnChangeWhileServing(t *testing.T) {
	rt := &Runtime{PageDir: "/a"}
	k := announced(t, rt)
	rt.OnChange("x", func([]string) error { return nil })
	k.wants(`1watch "/a/x"`)
	k.says("rescan 1\n")
	k.wants("done 1")
}

// A worker that wants to know of nothing says no more than its byte: older kernels see no difference, and newer ones
// say no more than the byte '0' to it.
func TestNothingButTheByte(t *testing.T) {
	rt := &Runtime{}
	kernel := inherit(t, rt)
	release, err := rt.announce()
	if err != nil {
		t.Fatal(err)
	}
	kernel.WriteString("0")
	<-rt.Done()
	release()
	if said, err := io.ReadAll(kernel); err != nil || string(said) != "1" {
		t.Errorf("the kernel read %q, %v", said, err)
	}
}

// Without a kernel nothing is told, and nothing fails.
func TestOnChangeByHand(t *testing.T) {
	rt := &Runtime{}
	rt.OnChange("data", func([]string) error { t.Error("told"); return nil })
	release, err := rt.announce()
	if err != nil {
		t.Fatal(err)
	}
	release()
	if dir := rt.changes.hooks[0].dir; filepath.IsAbs(dir) {
		t.Errorf("watches %s", dir)
	}
}
