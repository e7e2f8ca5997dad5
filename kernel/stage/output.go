package stage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	maxLine        = 64 << 10 // bytes; a longer line is cut into several
	tailSize       = 64 << 10 // bytes that are kept of a plugin's stderr
	tailLines      = 20
	linesPerSecond = 200 // of each stream that reach the log; the rest is counted

	muted = 10 * time.Second // as many lines may pass in so long, once there were too many
)

// output takes what a plugin writes. What is too much for the log is read, counted and thrown away; who writes without
// end is held up, as nothing else keeps the reading of it from taking a core (see throttle). (go-plugin's own reader is not used: it shows plain lines at debug only,
// has no limit, and panics on a JSON line whose @message is no string.)
type output struct {
	log            hclog.Logger
	stderr, stdout lines // the process's own file descriptors
	syncErr        lines // what Go code in the plugin writes to os.Stderr, which go-plugin sends by RPC
	syncOut        lines

	errLimit, outLimit limiter
	throttle           throttle

	mu       sync.Mutex
	tail     []byte
	panicked bool
}

// newOutput logs to log. first gets the first line of stdout, which is the handshake, instead of the log.
func newOutput(log hclog.Logger, first func(line []byte)) *output {
	o := &output{log: log}
	for _, l := range []*lines{&o.stderr, &o.stdout, &o.syncErr, &o.syncOut} {
		l.pass = o.throttle.pass
	}
	onErr := func(line []byte) { o.keep(line); o.limited(&o.errLimit, line, o.logLine) }
	onOut := func(line []byte) { o.limited(&o.outLimit, line, o.logNoise) }
	o.stderr.take, o.syncErr.take, o.syncOut.take = onErr, onErr, onOut
	o.stdout.take = func(line []byte) {
		if first == nil {
			onOut(line)
			return
		}
		first(line)
		first = nil
	}
	return o
}

// flush takes the rest of what was written without a newline at its end, and tells how many lines were dropped.
func (o *output) flush() {
	for _, l := range []*lines{&o.stderr, &o.stdout, &o.syncErr, &o.syncOut} {
		l.flush()
	}
	o.dropped(o.errLimit.rest() + o.outLimit.rest())
}

// lastWords gives the last lines of stderr.
func (o *output) lastWords() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := strings.TrimRight(strings.ToValidUTF8(string(o.tail), "?"), "\n")
	if text == "" {
		return nil
	}
	all := strings.Split(text, "\n")
	words := all[max(0, len(all)-tailLines):]
	for i, line := range words {
		words[i] = readable(line)
	}
	return words
}

// readable gives a line of hclog the form that it has on a terminal.
func readable(line string) string {
	level, message, fields, ok := parseLog([]byte(line))
	if !ok {
		return line
	}
	for i := 0; i < len(fields); i += 2 {
		message += fmt.Sprintf(" %v=%v", fields[i], fields[i+1])
	}
	return "[" + strings.ToUpper(level.String()) + "] " + message
}

// keep remembers a line for lastWords.
func (o *output) keep(line []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tail = append(append(o.tail, line...), '\n')
	if len(o.tail) > 2*tailSize {
		o.tail = append(o.tail[:0], o.tail[len(o.tail)-tailSize:]...)
	}
}

func (o *output) limited(l *limiter, line []byte, show func(line []byte)) {
	ok, lost := l.allow(time.Now())
	o.dropped(lost)
	if ok {
		show(line)
	}
}

func (o *output) dropped(lines int) {
	if lines > 0 {
		o.log.Warn("the plugin writes too much: lines were dropped", "lines", lines)
	}
}

func (o *output) logNoise(line []byte) {
	if text := printable(line); text != "" {
		o.log.Debug(text, "from", "stdout")
	}
}

// logLine passes a line on at the level that it has: that of a line of hclog, else what its beginning tells.
func (o *output) logLine(line []byte) {
	if level, message, fields, ok := parseLog(line); ok {
		o.log.Log(level, message, fields...)
		return
	}
	if text := printable(line); text != "" {
		o.log.Log(o.plainLevel(text), text)
	}
}

func printable(line []byte) string { return strings.ToValidUTF8(string(bytes.TrimSpace(line)), "?") }

var plainLevels = []struct {
	prefix string
	level  hclog.Level
}{
	{"[TRACE]", hclog.Trace}, {"[DEBUG]", hclog.Debug}, {"[INFO]", hclog.Info}, {"[WARN]", hclog.Warn}, {"[ERROR]", hclog.Error},
	{"panic: ", hclog.Error}, {"fatal error: ", hclog.Error},
}

// plainLevel is info for a line that says nothing else, and error from the first line of a Go panic on.
func (o *output) plainLevel(text string) hclog.Level {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range plainLevels {
		if strings.HasPrefix(text, p.prefix) {
			o.panicked = o.panicked || !strings.HasPrefix(p.prefix, "[")
			return p.level
		}
	}
	if o.panicked {
		return hclog.Error
	}
	return hclog.Info
}

// parseLog reads a line as hclog writes it with JSONFormat. Time and source line of the plugin are left out.
func parseLog(line []byte) (level hclog.Level, message string, fields []any, ok bool) {
	if len(line) == 0 || line[0] != '{' {
		return 0, "", nil, false
	}
	var entry map[string]any
	if json.Unmarshal(line, &entry) != nil {
		return 0, "", nil, false
	}
	message, isText := entry["@message"].(string)
	name, _ := entry["@level"].(string)
	if level = hclog.LevelFromString(name); !isText || level == hclog.NoLevel || level == hclog.Off {
		return 0, "", nil, false
	}
	for _, key := range slices.Sorted(maps.Keys(entry)) {
		switch key {
		case "@message", "@level", "@timestamp", "@caller":
		default:
			fields = append(fields, strings.TrimPrefix(key, "@"), entry[key])
		}
	}
	return level, message, fields, true
}

// lines cuts what is written to it into lines, without their newline, and gives each to take, one at a time. take
// must not keep the slice.
type lines struct {
	pass func(bytes int) // blocks while that is too much; nil: nothing is
	take func(line []byte)
	mu   sync.Mutex
	rest []byte
}

func (l *lines) Write(b []byte) (int, error) {
	if l.pass != nil {
		l.pass(len(b))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	written := len(b)
	for {
		line, after, found := bytes.Cut(b, []byte{'\n'})
		for len(l.rest)+len(line) >= maxLine {
			room := maxLine - len(l.rest)
			l.take(append(l.rest, line[:room]...))
			l.rest, line = l.rest[:0], line[room:]
		}
		switch {
		case !found:
			l.rest = append(l.rest, line...)
			return written, nil
		case len(l.rest) == 0:
			l.take(line)
		default:
			l.take(append(l.rest, line...))
			l.rest = l.rest[:0]
		}
		b = after
	}
}

func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rest) > 0 {
		l.take(l.rest)
		l.rest = nil
	}
}

// limiter lets linesPerSecond through in each second; after one in which there were more, in each span of muted, until
// one has no more. It is safe for concurrent use.
type limiter struct {
	mu       sync.Mutex
	window   time.Time
	span     time.Duration
	in, lost int
}

// allow tells whether a line at now may pass, and, with the first line of a new span, how many of the one before did
// not.
func (l *limiter) allow(now time.Time) (ok bool, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.window) >= l.span {
		lost = l.lost
		l.window, l.in, l.lost = now, 0, 0
		if l.span = time.Second; lost > 0 {
			l.span = muted
		}
	}
	if l.in >= linesPerSecond {
		l.lost++
		return false, lost
	}
	l.in++
	return true, lost
}

// rest gives how many lines did not pass and were not told yet.
func (l *limiter) rest() (lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost, l.lost = l.lost, 0
	return lost
}
