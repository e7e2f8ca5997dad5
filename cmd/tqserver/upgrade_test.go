//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestBinaryIsReplacedWhileItRuns is an upgrade that is not followed by a restart yet: what the running server starts is
// what it was itself started from, be the file on disk another one by now, or gone.
func TestBinaryIsReplacedWhileItRuns(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"by rename": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte("#!/bin/sh\necho this is another version\nexit 42\n"), 0o755), os.Rename(path+".new", path))
		},
		"by removal": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, map[string]string{"pages/index/main.go": textPage("release 0")})
			path := filepath.Join(filepath.Dir(s.dir), "tqserver")
			if err := copyFile(path, "/proc/self/exe"); err != nil {
				t.Fatal(err)
			}
			s.startFrom(path)
			s.awaitBody("/", "release 0")
			l := s.startLoad(lightLoad("/"), nil)
			if err := replace(path); err != nil {
				t.Fatal(err)
			}
			for i, stage := range allStages {
				s.sameBinary(s.stage(stage).PID)
				old := s.killStage(stage)
				s.await("the "+stage+" to be back", func() error {
					if now := s.stage(stage); now.State != "running" || now.PID == old.PID || now.Version != old.Version {
						return fmt.Errorf("it is %+v", now)
					}
					return nil
				})
				s.sameBinary(s.stage(stage).PID)
				text := fmt.Sprint("release ", i+1)
				s.write("pages/index/main.go", textPage(text))
				s.awaitBody("/", text)
			}
			s.secondBuilder()
			s.write("pages/index/main.go", textPage("at last"))
			s.awaitBody("/", "at last")
			l.mustHold()
		})
	}
}

// startFrom is start with a file of its own that is the server.
func (s *site) startFrom(path string) {
	s.t.Helper()
	s.cmd = exec.CommandContext(context.Background(), path, "-C", s.dir)
	s.cmd.Env = append(os.Environ(), append([]string{"TQSERVER_TEST_BE_SERVER=1"}, s.environ...)...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, exited := s.cmd, make(chan struct{})
	s.exited = exited
	go func() { _ = cmd.Wait(); close(exited) }()
	s.t.Cleanup(s.stop)
	s.await("the server to be up", func() error {
		_, err := s.tryStatus()
		return err
	})
}

// sameBinary checks that a process runs the very file that the server does.
func (s *site) sameBinary(pid int) {
	s.t.Helper()
	kernel, err := os.Stat(fmt.Sprintf("/proc/%d/exe", s.cmd.Process.Pid))
	plugin, err2 := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err := errors.Join(err, err2); err != nil {
		s.t.Fatal(err)
	}
	if !os.SameFile(kernel, plugin) {
		s.t.Errorf("process %d runs another file than the server", pid)
	}
}

// secondBuilder has a reload start one more of the plugins that are built in.
func (s *site) secondBuilder() {
	s.t.Helper()
	s.configure("", "", "plugins: {builder: [{use: builtin:go}, {use: builtin:go, config: {parallel: 1}}]}\n")
	if _, stderr, err := s.run("reload"); err != nil {
		s.t.Fatalf("reload: %v\n%s", err, stderr)
	}
	s.await("two builders", func() error {
		n := 0
		for _, st := range s.status().Stages {
			if st.Stage == "builder" && st.State == "running" {
				s.sameBinary(st.PID)
				n++
			}
		}
		if n != 2 {
			return fmt.Errorf("%d run", n)
		}
		return nil
	})
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
