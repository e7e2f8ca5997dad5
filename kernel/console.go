package kernel

import (
	"bytes"
	"io"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
)

// console is what a person sees: the log, the lines of the workers, and below them, on a terminal, a line that tells
// what is going on.
type console struct {
	mu    sync.Mutex
	out   io.Writer // nil: quiet
	tty   bool
	sink  hclog.SinkAdapter // of the kernel's log; nil: none
	shown string
}

func newConsole(out io.Writer, tty bool) *console { return &console{out: out, tty: tty} }

var _ io.Writer = (*console)(nil)

// Write prints whole lines above the status.
func (c *console) Write(p []byte) (int, error) {
	if c.out == nil {
		return len(p), nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(p), c.print(p)
}

func (c *console) print(p []byte) error {
	var b bytes.Buffer
	if c.shown != "" {
		b.WriteString("\r\x1b[K")
	}
	b.Write(p)
	b.WriteString(c.shown)
	_, err := c.out.Write(b.Bytes())
	return err
}

// status shows a line that changes in place; "" removes it. Off a terminal it does nothing.
func (c *console) status(text string) {
	if c.out == nil || !c.tty {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if text == c.shown {
		return
	}
	old := c.shown
	c.shown = text
	if old != "" || text != "" {
		_, _ = io.WriteString(c.out, "\r\x1b[K"+text) // a terminal that is gone
	}
}

// progress is the status for where lines cannot change in place.
func (c *console) progress(text string) {
	if !c.tty {
		_, _ = c.Write([]byte(text + "\n"))
	}
}

// worker prints a line that a page wrote.
func (c *console) worker(page string, line []byte) {
	if c.out == nil {
		return
	}
	name := page + " | "
	if c.tty {
		name = "\x1b[36m" + page + "\x1b[0m | "
	}
	_, _ = c.Write([]byte(name + strings.ToValidUTF8(string(line), "?") + "\n"))
}

// options are those of the logger that writes here.
func (c *console) options(level hclog.Level) *hclog.LoggerOptions {
	o := &hclog.LoggerOptions{Level: level, Output: c, TimeFormat: "15:04:05.000"}
	if c.tty {
		o.Color, o.ColorHeaderAndFields = hclog.ForceColor, true
	}
	return o
}
