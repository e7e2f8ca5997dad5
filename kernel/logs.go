package kernel

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/tqserver/tqserver/kernel/spool"
	"github.com/tqserver/tqserver/sdk"
)

// serverStream is the name of the kernel's own log.
const serverStream = "server"

func newSpool(k *Kernel) (*spool.Spool, error) {
	dir := k.site.path("spill")
	if err := privateDir(dir); err != nil {
		return nil, fmt.Errorf("spill directory: %w", err)
	}
	return spool.New(spool.Options{Dir: dir, Log: k.spoolTrouble})
}

// spoolTrouble goes to standard error, also with -quiet: the log is what is in trouble.
func (k *Kernel) spoolTrouble(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "tqserver: warning: "+format+"\n", args...)
}

// newLogger logs to the spool, from where the rotator stores it, and to the console.
func newLogger(k *Kernel) hclog.InterceptLogger {
	level := hclog.LevelFromString(k.config().Server.LogLevel)
	log := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: level, Output: serverLog{k}, TimeFormat: time.RFC3339Nano})
	if k.console.out != nil {
		k.console.sink = hclog.NewSinkAdapter(k.console.options(level))
		log.RegisterSink(k.console.sink)
	}
	return log
}

func (k *Kernel) setLevel(level string) {
	k.log.SetLevel(hclog.LevelFromString(level))
	if l, ok := k.console.sink.(interface{ SetLevel(hclog.Level) }); ok {
		l.SetLevel(hclog.LevelFromString(level))
	}
}

// serverLog takes the lines of the kernel's logger.
type serverLog struct{ k *Kernel }

func (s serverLog) Write(p []byte) (int, error) {
	h := s.k.serverHeader()
	now, plugin := time.Now(), pluginOf(p)
	for line := range bytes.Lines(p) {
		l := sdk.Line{Time: now, Source: sdk.Kernel, Text: bytes.TrimRight(line, "\n")}
		s.k.spool.Append(h, l)
		if plugin != "" {
			s.k.spool.Append(spool.Header{Stream: PluginStream + plugin}, l) // to be shown; stored it is once
		}
	}
	return len(p), nil
}

// serverHeader is that of the kernel's own lines.
func (k *Kernel) serverHeader() spool.Header {
	h := spool.Header{Stream: serverStream}
	if f := k.config().Server.LogFile; f != "" {
		h.File = k.site.abs(f)
	}
	return h
}

// PluginStream is the beginning of the streams "server:resolver" and so on, which have the lines of the kernel's log
// that come from a plugin or are about it; a busy server's requests do not drive them out. By itself it stands for
// these streams together.
const PluginStream = serverStream + ":"

// pluginOf gives the stage that named a line of hclog: "TIME [LEVEL]  stage: message". Another line has none.
func pluginOf(line []byte) string {
	_, rest, _ := bytes.Cut(line, []byte("]"))
	name, _, _ := bytes.Cut(bytes.TrimLeft(rest, " "), []byte(":"))
	if s := string(name); s == "builder" || slices.Contains(single, s) {
		return s
	}
	return ""
}

// spooled is the stream of the spool that has the lines of a stream, perhaps among others.
func spooled(stream string) string {
	if stream == PluginStream {
		return ""
	}
	return stream
}

// shown tells whether a record belongs to a stream: to all of them, it belongs once.
func shown(stream, record string) bool {
	switch ofPlugin := strings.HasPrefix(record, PluginStream); stream {
	case "":
		return !ofPlugin
	case PluginStream:
		return ofPlugin
	}
	return true
}

func (k *Kernel) recent(stream string, n int) []spool.Record {
	if spooled(stream) != "" {
		return k.spool.Recent(stream, n)
	}
	all := slices.DeleteFunc(k.spool.Recent("", 0), func(r spool.Record) bool { return !shown(stream, r.Stream) })
	if n > 0 {
		all = all[max(0, len(all)-n):]
	}
	return all
}

// shipLogs sends batches to the rotator. While it is down they wait, in memory and then in a file.
func (k *Kernel) shipLogs(ctx context.Context) error {
	return k.spool.Run(ctx, func(ctx context.Context, b sdk.Batch) error {
		err := k.stages.rotator.Do(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
			ctx, cancel := context.WithTimeout(ctx, k.config().Plugins.RPCTimeout)
			defer cancel()
			return sdk.NewRotator(conn).Write(ctx, b)
		})
		return named(k.stages.rotator, err)
	})
}

// newToolLogger logs warnings to the console only: a tool is no part of the site's log.
func newToolLogger(k *Kernel) hclog.InterceptLogger {
	o := k.console.options(hclog.Warn)
	return hclog.NewInterceptLogger(o)
}
