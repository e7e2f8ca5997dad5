package watcher

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/tqserver/tqserver/sdk"
)

// patientQuiet is a quiet time that outlasts a test: what is reported sooner is on the leading edge.
const patientQuiet = 10 * patience

// A complete save is reported on its leading edge, however it is made.
func TestLeadingEdge(t *testing.T) {
	for name, save := range map[string]func(t *testing.T, file string){
		"truncate and write (VS Code)": func(t *testing.T, file string) { write(t, file, "package main // two") },
		"backup, then new file (vim)": func(t *testing.T, file string) {
			write(t, filepath.Dir(file)+"/4913", "")
			must(t, os.Remove(filepath.Dir(file)+"/4913"))
			must(t, os.Rename(file, file+"~"))
			write(t, file, "package main // vim")
			must(t, os.Remove(file+"~"))
		},
		"rename over (JetBrains)": func(t *testing.T, file string) {
			write(t, file+"___jb_tmp___", "package main // jb")
			must(t, os.Rename(file, file+"___jb_old___"))
			must(t, os.Rename(file+"___jb_tmp___", file))
			must(t, os.Remove(file+"___jb_old___"))
		},
		"temporary file of another name (sed -i)": func(t *testing.T, file string) {
			temp := filepath.Dir(file) + "/sedXb3Pq1"
			write(t, temp, "package main // sed")
			must(t, os.Rename(temp, file))
		},
		"copy beside it (gofmt -w)": func(t *testing.T, file string) {
			write(t, file+".818284590", "package main")
			write(t, file, "package main // formatted")
			must(t, os.Remove(file+".818284590"))
		},
		"in pieces": func(t *testing.T, file string) {
			f, err := os.Create(file)
			must(t, err)
			for range 50 {
				_, err = f.WriteString("// more and more\n")
				must(t, err)
			}
			must(t, f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := site(t)
			r := start(t, eventful())
			r.send(sdk.WatchSet{Roots: []string{root}, Debounce: patientQuiet})
			file := root + "/index/main.go"
			save(t, file)
			want, err := sdk.FileDigest(file)
			must(t, err)
			if c := r.next(); len(c.Changes) != 1 || c.Changes[0] != (sdk.Change{Path: file, Op: sdk.Modified, Digest: want}) {
				t.Errorf("reported %+v", c.Changes)
			}
		})
	}
}

// eventful is a watcher that trusts events and never polls.
func eventful() *Fsnotify {
	w := NewFsnotify()
	w.config.Mode, w.config.Poll = "events", 3_600_000
	return w
}

// told is a source whose events the test tells.
type told struct{ silent }

func (*told) exact(string) bool { return true }

// lead runs a session whose events the test tells, with 50 ms of quiet and in a time of its own, on a site.
func lead(t *testing.T, test func(t *testing.T, s *session, file string, reported func() []sdk.Change)) {
	root := site(t)
	synctest.Test(t, func(t *testing.T) {
		var changes []sdk.Change
		s := newSession(t.Context(), func(*hints) (source, error) { return &told{}, nil }, NewFsnotify().log, func(c sdk.ChangeSet) error {
			changes = append(changes, c.Changes...)
			return nil
		})
		s.connect(Config{Debounce: 50, Mode: "events", Poll: 3_600_000})
		defer s.disconnect()
		must(t, s.take(sdk.WatchSet{Version: 1, Roots: []string{root}}))
		changes = nil
		test(t, s, root+"/index/main.go", func() []sdk.Change {
			defer func() { changes = nil }()
			return changes
		})
	})
}

// tell hands events over: complete, or being written.
func (s *session) tell(t *testing.T, complete bool, files ...string) {
	t.Helper()
	f := newFound()
	for _, file := range files {
		f.events[file] = fsnotify.Write
		if complete {
			f.done[file] = true
		}
	}
	must(t, s.note(f))
}

// ends waits for the end of the burst, which must come after d.
func (s *session) ends(t *testing.T, d time.Duration) {
	t.Helper()
	begin := time.Now()
	<-s.burst.timer.C
	if took := time.Since(begin); took != d {
		t.Errorf("the burst ended after %v, want %v", took, d)
	}
	must(t, s.flush())
}

func wantReported(t *testing.T, got []sdk.Change, paths ...string) {
	t.Helper()
	var found []string
	for _, c := range got {
		found = append(found, c.Path)
	}
	if len(found) != len(paths) {
		t.Fatalf("reported %q, want %q", found, paths)
	}
	for i := range paths {
		if found[i] != paths[i] {
			t.Fatalf("reported %q, want %q", found, paths)
		}
	}
}

// What may be half a save waits for the whole quiet time, or until it is complete.
func TestHalfASaveIsNotReported(t *testing.T) {
	lead(t, func(t *testing.T, s *session, file string, reported func() []sdk.Change) {
		write(t, file, "packa")
		s.tell(t, false, file)
		time.Sleep(40 * ms)
		write(t, file, "package ma")
		s.tell(t, false, file)
		wantReported(t, reported())
		time.Sleep(40 * ms)
		write(t, file, "package main // whole")
		s.tell(t, true, file)
		wantReported(t, reported(), file)
		s.ends(t, 10*ms)
		wantReported(t, reported())
	})
}

func TestFileThatStaysOpenWaits(t *testing.T) {
	lead(t, func(t *testing.T, s *session, file string, reported func() []sdk.Change) {
		write(t, file, "package main // and open")
		s.tell(t, false, file)
		s.ends(t, 50*ms)
		wantReported(t, reported(), file)
	})
}

// A file that was made empty, or is gone, is about to come back.
func TestEmptyAndVanishedWait(t *testing.T) {
	lead(t, func(t *testing.T, s *session, file string, reported func() []sdk.Change) {
		write(t, file, "")
		s.tell(t, true, file)
		s.ends(t, 50*ms)
		wantReported(t, reported(), file)
		time.Sleep(time.Second)
		must(t, os.Remove(file))
		f := newFound()
		f.events[file] = fsnotify.Remove
		must(t, s.note(f))
		wantReported(t, reported())
		s.ends(t, 50*ms)
		wantReported(t, reported(), file)
	})
}

// A touch, or the same content once more, is no save, and the one behind it leads.
func TestSaveWithoutAChangeIsSilent(t *testing.T) {
	lead(t, func(t *testing.T, s *session, file string, reported func() []sdk.Change) {
		write(t, file, "package main")
		s.tell(t, true, file)
		wantReported(t, reported())
		write(t, file, "package main // other")
		s.tell(t, true, file)
		wantReported(t, reported(), file)
		f := newFound()
		f.events[file] = fsnotify.Chmod
		must(t, s.note(f))
		s.ends(t, 10*ms)
		wantReported(t, reported())
	})
}

// A program that writes many files costs two reports: the first of them, and all others.
func TestManyFilesAreTwoReports(t *testing.T) {
	lead(t, func(t *testing.T, s *session, file string, reported func() []sdk.Change) {
		others := []string{filepath.Dir(file) + "/deep/down/deep.go", filepath.Dir(file) + "/new.go", filepath.Dir(file) + "/newer.go"}
		write(t, file, "package main // 0")
		s.tell(t, true, file)
		wantReported(t, reported(), file)
		for i, other := range others {
			time.Sleep(9 * ms)
			write(t, other, "package main // "+string(rune('1'+i)))
			s.tell(t, true, other)
			wantReported(t, reported())
		}
		time.Sleep(30 * ms)
		write(t, file, "package main // again")
		s.tell(t, true, file)
		wantReported(t, reported())
		s.ends(t, 50*ms)
		wantReported(t, reported(), append([]string{others[0], file}, others[1:]...)...)
		time.Sleep(50 * ms)
		write(t, file, "package main // a save")
		s.tell(t, true, file)
		wantReported(t, reported(), file)
	})
}

// "Save all" of two files that are there at once is one report.
func TestTwoFilesAreOneReport(t *testing.T) {
	lead(t, func(t *testing.T, s *session, file string, reported func() []sdk.Change) {
		other := filepath.Dir(file) + "/deep/down/deep.go"
		write(t, file, "package main // 2")
		write(t, other, "package main // 2")
		s.tell(t, true, file, other)
		wantReported(t, reported(), other, file)
	})
}

// An event that comes after the word that its file is complete is no reason to wait, unless the file has changed.
func TestLateEvent(t *testing.T) {
	lead(t, func(t *testing.T, s *session, file string, reported func() []sdk.Change) {
		write(t, file, "package main // 2")
		s.tell(t, true, file)
		wantReported(t, reported(), file)
		s.tell(t, false, file)
		s.ends(t, 10*ms)
		write(t, file, "package main // being written")
		s.tell(t, false, file)
		s.ends(t, 50*ms)
		wantReported(t, reported(), file)
	})
}

// Where watches are short, the ones that only make things quicker are given up, and everything is found as before.
func TestForgoingIsSlowerAndRight(t *testing.T) {
	root := site(t)
	w := eventful()
	w.open = func(h *hints) (source, error) {
		s, err := openEvents(h)
		if err != nil {
			return nil, err
		}
		e := s.(*events)
		must(t, e.add(root+"/api"))
		if !e.exact(root + "/api") {
			t.Error("nothing would be heard of files that are complete")
		}
		e.forgo()
		if e.exact(root + "/api") {
			t.Error("files that are complete are still waited for")
		}
		return e, nil
	}
	r := start(t, w)
	r.root(root)
	write(t, root+"/index/main.go", "package main // after a while")
	write(t, root+"/api/new/main.go", "package main")
	r.settle(root)
}
