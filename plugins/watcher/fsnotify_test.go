package watcher

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// Each way to change a tree ends in a picture equal to the disk, with events and with polling.
func TestChanges(t *testing.T) {
	cases := map[string]func(t *testing.T, root string){
		"truncate and write (VS Code)": func(t *testing.T, root string) {
			write(t, root+"/index/main.go", "package main // two")
		},
		"backup, then new file (vim)": func(t *testing.T, root string) {
			file := root + "/index/main.go"
			write(t, root+"/index/4913", "")
			must(t, os.Remove(root+"/index/4913"))
			must(t, os.Rename(file, file+"~"))
			write(t, file, "package main // vim")
			must(t, os.Remove(file+"~"))
		},
		"swap file beside it (vim)": func(t *testing.T, root string) {
			write(t, root+"/index/.main.go.swp", "b0VIM")
			write(t, root+"/index/main.go", "package main // vim")
			must(t, os.Remove(root+"/index/.main.go.swp"))
		},
		"rename over (JetBrains)": func(t *testing.T, root string) {
			file := root + "/index/main.go"
			write(t, file+"___jb_tmp___", "package main // jb")
			must(t, os.Rename(file, file+"___jb_old___"))
			must(t, os.Rename(file+"___jb_tmp___", file))
			must(t, os.Remove(file+"___jb_old___"))
		},
		"lock link (emacs)": func(t *testing.T, root string) {
			must(t, os.Symlink("me@host.1:2", root+"/index/.#main.go"))
			write(t, root+"/index/#main.go#", "package main // autosaved")
			write(t, root+"/index/main.go", "package main // emacs")
			must(t, os.Remove(root+"/index/.#main.go"))
		},
		"half, then whole": func(t *testing.T, root string) {
			f, err := os.Create(root + "/index/main.go")
			must(t, err)
			defer f.Close()
			for range 50 {
				_, err = f.WriteString("// more and more\n")
				must(t, err)
			}
		},
		"same size": func(t *testing.T, root string) {
			write(t, root+"/index/main.go", "package niam")
		},
		"remove file": func(t *testing.T, root string) {
			must(t, os.Remove(root+"/index/main.go"))
		},
		"rename file": func(t *testing.T, root string) {
			must(t, os.Rename(root+"/index/main.go", root+"/index/other.go"))
		},
		"new nested directories": func(t *testing.T, root string) {
			write(t, root+"/a/b/c/x.go", "package x")
			write(t, root+"/a/y.go", "package y")
		},
		"remove directory": func(t *testing.T, root string) {
			must(t, os.RemoveAll(root+"/api"))
		},
		"rename directory": func(t *testing.T, root string) {
			must(t, os.Rename(root+"/api", root+"/ipa"))
		},
		"move directory in": func(t *testing.T, root string) {
			write(t, root+"/../outside/deep/x.go", "package x")
			must(t, os.Rename(root+"/../outside", root+"/inside"))
		},
		"move directory out": func(t *testing.T, root string) {
			must(t, os.Rename(root+"/api", root+"/../api"))
		},
		"move directory to where one looks first": func(t *testing.T, root string) {
			must(t, os.Rename(root+"/index/deep", root+"/api/deep"))
		},
		"exchange directory": func(t *testing.T, root string) {
			must(t, os.RemoveAll(root+"/api"))
			write(t, root+"/api/users/main.go", "package main // another")
		},
		"file becomes directory": func(t *testing.T, root string) {
			must(t, os.Remove(root+"/index/main.go"))
			write(t, root+"/index/main.go/x.go", "package x")
		},
		"directory becomes file": func(t *testing.T, root string) {
			must(t, os.RemoveAll(root+"/api/users"))
			write(t, root+"/api/users", "no directory")
		},
	}
	for name, change := range cases {
		for mode, w := range map[string]func() *Fsnotify{"events": quick, "poll": polling} {
			t.Run(mode+"/"+name, func(t *testing.T) {
				t.Parallel()
				root := site(t)
				r := start(t, w())
				r.root(root)
				change(t, root)
				r.settle(root)
				// whatever was moved or made anew is still watched
				for path := range disk(t, root) {
					write(t, path, "package main // after "+name)
				}
				write(t, root+"/index/fresh/main.go", "package main // "+name)
				r.settle(root)
			})
		}
	}
}

func TestNoChangeIsSilent(t *testing.T) {
	for mode, w := range map[string]func() *Fsnotify{"events": quick, "poll": polling} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			root := site(t)
			file := root + "/index/main.go"
			r := start(t, w())
			r.root(root)
			must(t, os.Chmod(file, 0o600))
			r.quiet(root + "/index")
			must(t, os.Chtimes(file, time.Time{}, time.Now().Add(-time.Hour)))
			r.quiet(root + "/index")
			write(t, file, "package main")
			r.quiet(root + "/index")
			write(t, root+"/index/main.go.tmp", "x")
			write(t, root+"/index/.hidden", "x")
			write(t, root+"/.git/index", "x")
			write(t, root+"/node_modules/x/main.go", "x")
			r.quiet(root + "/index")
		})
	}
}

func TestNestedDirectoriesAtOnce(t *testing.T) {
	root := site(t)
	r := start(t, quick())
	r.root(root)
	for i := range 30 {
		write(t, fmt.Sprintf("%s/n%d/b/c/x.go", root, i), "package x")
		if i%3 == 0 {
			must(t, os.Rename(fmt.Sprintf("%s/n%d", root, i), fmt.Sprintf("%s/index/m%d", root, i)))
		}
	}
	r.settle(root)
	for i := 0; i < 30; i += 3 { // the watches go by the new paths
		write(t, fmt.Sprintf("%s/index/m%d/b/c/x.go", root, i), "package x // two")
	}
	r.settle(root)
}

func TestCheckoutIsFewBursts(t *testing.T) {
	root := site(t)
	r := start(t, quick())
	r.root(root)
	for i := range 200 {
		write(t, fmt.Sprintf("%s/p%d/main.go", root, i), "package main")
	}
	if n := r.settle(root); n > 8 {
		t.Errorf("200 files took %d reports", n)
	}
}

func TestManySaves(t *testing.T) {
	root := site(t)
	r := start(t, quick())
	r.root(root)
	for i := range 500 {
		write(t, root+"/index/main.go", fmt.Sprintf("package main // %d", i))
	}
	if n := r.settle(root); n > 50 {
		t.Errorf("500 saves took %d reports", n)
	}
}

func TestDebounceZeroReportsAtOnce(t *testing.T) {
	root := site(t)
	r := start(t, quick())
	r.send(sdk.WatchSet{Roots: []string{root}})
	write(t, root+"/index/main.go", "package main // at once")
	r.settle(root)
	must(t, os.Rename(root+"/api", root+"/ipa"))
	r.settle(root)
	write(t, root+"/ipa/users/db/db.go", "package db // two")
	r.settle(root)
}

func TestPluginDebounceWins(t *testing.T) {
	if got := (Config{Debounce: -1}).debounce(50 * time.Millisecond); got != 50*time.Millisecond {
		t.Errorf("default: %v", got)
	}
	if got := (Config{Debounce: 0}).debounce(50 * time.Millisecond); got != 0 {
		t.Errorf("0: %v", got)
	}
	if got := (Config{Debounce: 7}).debounce(50 * time.Millisecond); got != 7*time.Millisecond {
		t.Errorf("7: %v", got)
	}
}

func TestConfigSchema(t *testing.T) {
	sdk.Config(NewFsnotify().Configure) // panics at a wrong tag
}

func TestBigTree(t *testing.T) {
	root := memory(t)
	for i := range 5000 {
		dir := fmt.Sprintf("%s/d%d/e%d", root, i/100, i/10%10)
		if i%10 == 0 {
			must(t, os.MkdirAll(dir, 0o777))
		}
		must(t, os.WriteFile(fmt.Sprintf("%s/f%d.go", dir, i), fmt.Appendf(nil, "package f%d", i), 0o666))
	}
	r := start(t, quick())
	begin := time.Now()
	c := r.send(sdk.WatchSet{Roots: []string{root}, Debounce: 20 * time.Millisecond})
	if len(c.Changes) != 5000 {
		t.Fatalf("%d changes", len(c.Changes))
	}
	first := time.Since(begin)
	begin = time.Now()
	if c = r.send(sdk.WatchSet{Roots: []string{root}, Debounce: 20 * time.Millisecond}); len(c.Changes) != 0 {
		t.Fatalf("the same again: %d changes", len(c.Changes))
	}
	t.Logf("first %v, again %v", first, time.Since(begin))
	file := filepath.Join(root, "d7/e3/f733.go")
	write(t, file, "package other")
	want, err := sdk.FileDigest(file)
	must(t, err)
	for r.known[file] != want {
		if c = r.next(); len(c.Changes) != 1 {
			t.Fatalf("more than the one file: %d", len(c.Changes))
		}
	}
}
