package kernel

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/tqserver/tqserver/kernel/proxy"
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
	h := spool.Header{Stream: serverStream}
	if f := s.k.config().Server.LogFile; f != "" {
		h.File = s.k.site.abs(f)
	}
	now := time.Now()
	for line := range bytes.Lines(p) {
		s.k.spool.Append(h, sdk.Line{Time: now, Source: sdk.Kernel, Text: bytes.TrimRight(line, "\n")})
	}
	return len(p), nil
}

// shipLogs sends batches to the rotator. While it is down they wait, in memory and then in a file.
func (k *Kernel) shipLogs(ctx context.Context) error {
	return k.spool.Run(ctx, func(ctx context.Context, b sdk.Batch) error {
		return k.stages.rotator.Do(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
			ctx, cancel := context.WithTimeout(ctx, k.config().Plugins.RPCTimeout)
			defer cancel()
			return sdk.NewRotator(conn).Write(ctx, b)
		})
	})
}

// logRequest writes the line of the specification, METHOD PATH - STATUS DURATION, with its parts as values.
func (k *Kernel) logRequest(e proxy.Entry) {
	if !k.log.IsInfo() {
		return
	}
	args := []any{"page", e.Page, "worker", e.Worker, "bytes", e.Bytes, "client", e.Client, "id", e.RequestID}
	if e.Error != "" {
		args = append(args, "error", e.Error)
	}
	k.log.Info(fmt.Sprintf("%s %s - %d %v", e.Method, e.Path, e.Status, e.Duration.Round(time.Microsecond)), args...)
}

// newToolLogger logs warnings to the console only: a tool is no part of the site's log.
func newToolLogger(k *Kernel) hclog.InterceptLogger {
	o := k.console.options(hclog.Warn)
	return hclog.NewInterceptLogger(o)
}
