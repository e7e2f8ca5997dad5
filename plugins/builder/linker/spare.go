package linker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	readyLimit = 2 * time.Minute // for preloading, on the busiest machine
	linkLimit  = 2 * time.Minute // for a link
)

// spare is a linker process that has loaded the packages of a Spec, and waits.
type spare struct {
	mark   string // of the Spec and its files when the process was started
	cmd    *exec.Cmd
	in     *os.File // takes main and out
	status *os.File // gives "ready", then "done"
	lines  *bufio.Reader
	output *os.File      // what it prints; a file that has no name
	said   string        // with "done": whether what it had marked as reachable could stay
	over   chan struct{} // closed when it has exited and was waited for
}

// startSpare starts tool and blocks until it has preloaded. It is killed when the calling thread ends, when ctx does
// before it is ready, or takes too long. It uses dir for a file. wg waits for its exit.
func startSpare(ctx context.Context, wg *sync.WaitGroup, tool, plan, dir string, s Spec, mark string) (*spare, error) {
	sp := &spare{mark: mark, over: make(chan struct{})}
	in, status, err := sp.open(dir)
	if err == nil {
		sp.cmd = exec.Command(tool, linkArgs(s, "-preload="+plan, os.DevNull, "main.a")...)
		sp.cmd.Dir, sp.cmd.Env, sp.cmd.SysProcAttr = dir, without(s.Env, "GOGC"), childAttr()
		sp.cmd.Stdin, sp.cmd.Stdout, sp.cmd.Stderr, sp.cmd.ExtraFiles = in, sp.output, sp.output, []*os.File{status}
		err = sp.cmd.Start()
	}
	closeFiles(in, status)
	if err != nil {
		closeFiles(sp.in, sp.status, sp.output)
		return nil, fmt.Errorf("start preloaded linker: %w", err)
	}
	wg.Go(func() {
		_ = sp.cmd.Wait() // how it went is told by status
		close(sp.over)
	})
	if err := sp.await(ctx, "ready", readyLimit); err != nil {
		defer sp.end()
		return nil, fmt.Errorf("preload packages: %w: %s", err, sp.printed())
	}
	return sp, nil
}

// open makes the files of the process; those returned are for it to inherit.
func (sp *spare) open(dir string) (in, status *os.File, err error) {
	if sp.output, err = os.CreateTemp(dir, "output-"); err != nil {
		return nil, nil, err
	}
	if err = os.Remove(sp.output.Name()); err != nil {
		return nil, nil, err
	}
	if in, sp.in, err = os.Pipe(); err != nil {
		return nil, nil, err
	}
	sp.status, status, err = os.Pipe()
	sp.lines = bufio.NewReader(sp.status)
	return in, status, err
}

// link has the process link main into out, absolute paths, and returns when that is there, or the process is gone. It
// does so once.
func (sp *spare) link(ctx context.Context, main, out string) (output []byte, err error) {
	if strings.ContainsAny(main+out, "\r\n") {
		return nil, errors.New("line break in a path")
	}
	if _, err := io.WriteString(sp.in, main+"\n"+out+"\n"); err != nil {
		return nil, fmt.Errorf("ask preloaded linker: %w", err)
	}
	err = sp.await(ctx, "done", linkLimit)
	return sp.printed(), err
}

// await blocks until the process has said the word. If it does not, within limit and before ctx ends, it is gone when
// await returns.
func (sp *spare) await(ctx context.Context, word string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer context.AfterFunc(ctx, sp.kill)()
	line, err := sp.lines.ReadString('\n')
	if first, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " "); err == nil && first == word {
		sp.said = rest
		return nil
	}
	sp.kill()
	<-sp.over
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("preloaded linker: %v", sp.cmd.ProcessState)
}

func (sp *spare) printed() []byte {
	text, _ := io.ReadAll(io.NewSectionReader(sp.output, 0, 64<<10))
	return text
}

// alive tells whether the process waits for its link.
func (sp *spare) alive() bool {
	select {
	case <-sp.over:
		return false
	default:
		return true
	}
}

// kill may come at any time. The process has no children.
func (sp *spare) kill() { _ = sp.cmd.Process.Kill() }

// end ends the process, if it has not yet, and blocks until it is gone. It is called once, as the last.
func (sp *spare) end() {
	sp.kill()
	<-sp.over
	closeFiles(sp.in, sp.status, sp.output)
}

func closeFiles(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close() // nothing is lost: these are pipes and temporary files
		}
	}
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
