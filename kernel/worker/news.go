package worker

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// What a program that uses the SDK and the kernel say to each other on the ready pipe is described in sdk/worker. The
// kernel says nothing but '0' to a program that has not asked for more: an older SDK takes any byte for that.
const (
	longestNews = 4 << 10 // of one message, in bytes: it fits into any socket buffer, so that writing never blocks
	longestLine = 8 << 10 // of the program
	mostDirs    = 64
	mostFaults  = 20
	answerLimit = 10 * time.Second
)

// Update is what became of changed files.
type Update struct {
	Upto   int           // the newest call of Tell that the program was told of
	Files  []string      // that the program was told of; nil: anything may have changed
	Took   time.Duration // from the message to the answer
	Faults []Fault       // what is wrong now, also with other files; none: all is well
}

// Fault is one thing that is wrong with a file.
type Fault struct {
	File    string // "" when it has none
	Line    int    // 0: unknown
	Message string
}

// news is what the program is told of changed files: one message at a time.
type news struct {
	mu      sync.Mutex
	dirs    []string // that it wants to know of
	missed  bool     // changes were not told, which may be in dirs to come
	whole   bool     // to tell: anything may have changed
	files   []string // to tell
	size    int      // of files as a message
	calls   int      // of Tell that are to be told
	upto    int      // those of them that were
	sent    int      // messages
	waiting bool     // for the answer to the newest
	at      time.Time
	told    []string // by it
	faults  []Fault  // of the answer so far
	late    *time.Timer
}

// Tell lets the program know that files were changed, created or removed; nil means that any may have been. A program
// that does not want to know of these files is not told, one that is not ready yet is told then. It does not block:
// what comes before the answer to the last message is told after it, all at once. The result is the number of the call,
// which Updated gets when the program has answered; 0: it is not told, nor will it be.
func (w *Worker) Tell(files []string) int {
	n := &w.news
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.dirs) == 0 {
		n.missed = true
		return 0
	}
	heard := files == nil
	n.whole = n.whole || heard
	for _, file := range files {
		if !n.wants(file) {
			n.missed = true
			continue
		}
		n.add(file)
		heard = true
	}
	if !heard {
		return 0
	}
	n.calls++
	w.tellNow()
	return n.calls
}

func (n *news) wants(file string) bool {
	for _, dir := range n.dirs {
		if file == dir || strings.HasPrefix(file, strings.TrimSuffix(dir, "/")+"/") {
			return true
		}
	}
	return false
}

func (n *news) add(file string) {
	n.size += len(strconv.Quote(file)) + 1
	if n.whole = n.whole || n.size > longestNews-64; !n.whole {
		n.files = append(n.files, file)
	}
}

// tellNow sends what there is to tell, unless an answer is due. It is called with the lock held.
func (w *Worker) tellNow() {
	n := &w.news
	if n.waiting || !n.whole && len(n.files) == 0 {
		return
	}
	n.sent++
	message := "changed " + strconv.Itoa(n.sent)
	if n.whole {
		message, n.files = "rescan "+strconv.Itoa(n.sent), nil
	}
	for _, file := range n.files {
		message += " " + strconv.Quote(file)
	}
	n.told, n.files, n.size, n.whole = n.files, nil, 0, false
	n.waiting, n.upto, n.at, n.faults = true, n.calls, time.Now(), nil
	n.late = time.AfterFunc(answerLimit, w.unanswered)
	w.say(message + "\n")
}

// say writes all of a short text or, to a program that has long not read, none of it.
func (w *Worker) say(text string) {
	raw, err := w.ready.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Write(func(fd uintptr) bool {
		_, _ = syscall.Write(int(fd), []byte(text))
		return true
	})
}

// unanswered reports that a program has not answered. Its answer may still come.
func (w *Worker) unanswered() {
	n := &w.news
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waiting {
		w.report(Fault{Message: "the page was told of changed files and has not answered within " + answerLimit.String() +
			": see what its OnChange functions wait for"})
	}
}

// report calls Updated with the lock held, which keeps its calls in order.
func (w *Worker) report(faults ...Fault) {
	if w.spec.Updated != nil {
		w.spec.Updated(Update{Upto: w.news.upto, Files: w.news.told, Took: time.Since(w.news.at), Faults: faults})
	}
}

// listen reads the byte that says ready, and what the program says then. Whatever it is, it is read: a program that
// writes more must not be hit by a closed pipe.
func (w *Worker) listen(ready *os.File) {
	defer ready.Close()
	in := bufio.NewReaderSize(ready, longestLine)
	if _, err := in.ReadByte(); err != nil {
		return
	}
	close(w.said)
	for {
		line, err := in.ReadSlice('\n')
		whole := err == nil
		for err == bufio.ErrBufferFull {
			_, err = in.ReadSlice('\n')
		}
		if err != nil {
			break
		}
		if whole {
			w.hear(strings.TrimSuffix(string(line), "\n"))
		}
	}
	w.news.mu.Lock()
	defer w.news.mu.Unlock()
	if w.news.late != nil {
		w.news.late.Stop()
	}
	w.news.dirs, w.news.waiting = nil, false
}

// hear takes one line of the program. What is no word of the protocol is passed over.
func (w *Worker) hear(line string) {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "watch":
		if dir, err := strconv.Unquote(rest); err == nil {
			w.watch(dir)
		}
	case "fault":
		id, rest, _ := strings.Cut(rest, " ")
		w.fault(id, rest)
	case "done":
		w.answered(rest)
	}
}

// watch takes a wish. What has changed since the process began may be news for it.
func (w *Worker) watch(dir string) {
	n := &w.news
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.dirs) == mostDirs {
		return
	}
	n.dirs = append(n.dirs, dir)
	n.whole = n.whole || n.missed
	w.tellNow()
}

func (w *Worker) fault(id, rest string) {
	n := &w.news
	n.mu.Lock()
	defer n.mu.Unlock()
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil || !n.due(id) || len(n.faults) == mostFaults {
		return
	}
	var f Fault
	f.File, _ = strconv.Unquote(quoted) // it is quoted well
	line, message, _ := strings.Cut(strings.TrimPrefix(rest[len(quoted):], " "), " ")
	if f.Line, err = strconv.Atoi(line); err != nil {
		return
	}
	if f.Message, err = strconv.Unquote(message); err == nil {
		n.faults = append(n.faults, f)
	}
}

// due tells whether an answer is one to the newest message.
func (n *news) due(id string) bool { return n.waiting && id == strconv.Itoa(n.sent) }

func (w *Worker) answered(id string) {
	n := &w.news
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.due(id) {
		return
	}
	n.waiting = false
	n.late.Stop()
	w.report(n.faults...)
	w.tellNow()
}
