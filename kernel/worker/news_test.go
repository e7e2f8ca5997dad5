package worker

import (
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	sdk "github.com/tqserver/tqserver/sdk/worker"
)

// page is a page of today's SDK: it prints what it is told of below /p, and is at odds with files that are called bad.
func page() {
	rt, err := sdk.NewRuntime()
	if err != nil {
		log.Fatal(err)
	}
	rt.OnChange("/p", func(files []string) error {
		fmt.Println(len(files), files)
		if slices.Contains(files, "/p/bad") {
			return badFile{}
		}
		return nil
	})
	if wait := os.Getenv("WAIT"); wait != "" { // for a file that the test makes
		for _, err := os.Stat(wait); err != nil; _, err = os.Stat(wait) {
			time.Sleep(2 * time.Millisecond)
		}
	}
	log.Fatal(rt.StartServer(nil))
}

type badFile struct{}

func (badFile) Error() string                { return "bad" }
func (badFile) Fault() (string, int, string) { return "/p/bad", 3, "so \"bad\"\n" }

// oldPage is a page of the first SDK: it takes any byte that it reads for the end of its requests.
func oldPage() {
	pipe := talk("1")
	n, _ := pipe.Read(make([]byte, 1))
	fmt.Println("read", n)
	forever()
}

// chatter says what is no word of the protocol, answers what was not asked, and then hears the first message.
func chatter() {
	pipe := talk("ready\n" + strings.Repeat("x", 3*longestLine) + "\nwatch /p\nfault 1 \"\ndone 1\n\x00\nwatch \"/p\"\n")
	buf := make([]byte, longestLine)
	n, err := pipe.Read(buf)
	fmt.Println(strings.TrimSpace(string(buf[:n])), err)
	pipe.WriteString("done 7\nfault 7 \"\" 1 \"x\"\nfault 1 nonsense\nfault 1 \"/p/x\" many \"x\"\nfault 1 \"/p/x\" 1 x\nfault 1 \"/p/x\" 1 \"at last\"\ndone 1\ndone 1\n")
	forever()
}

func talk(words string) *os.File {
	fd, err := strconv.Atoi(os.Getenv("TQ_READY_FD"))
	if err != nil {
		panic(err)
	}
	pipe := os.NewFile(uintptr(fd), "ready")
	if _, err := pipe.WriteString(words); err != nil {
		panic(err)
	}
	return pipe
}

// updates gives the answers of a worker, and a way to set it up.
func updates() (chan Update, func(*Spec)) {
	c := make(chan Update, 100)
	return c, func(s *Spec) { s.Updated = func(u Update) { c <- u } }
}

func next(t *testing.T, c <-chan Update) Update {
	t.Helper()
	select {
	case u := <-c:
		return u
	case <-time.After(10 * time.Second):
		t.Fatal("no answer")
		return Update{}
	}
}

// listening waits until a worker has said what it wants to know, which follows its being ready.
func listening(t *testing.T, w *Worker) {
	t.Helper()
	mustBeReady(t, w)
	eventually(t, 10*time.Second, "the worker's wish", func() bool {
		w.news.mu.Lock()
		defer w.news.mu.Unlock()
		return len(w.news.dirs) > 0
	})
}

func TestTell(t *testing.T) {
	answers, set := updates()
	w, out := run(t, "page", set)
	listening(t, w)
	if w.Tell([]string{"/q/x", "/pp"}) != 0 {
		t.Error("the page hears what it does not want to know")
	}
	if w.Tell([]string{"/p/a b", "/q/x"}) != 1 {
		t.Error("the page does not hear")
	}
	if u := next(t, answers); !slices.Equal(u.Files, []string{"/p/a b"}) || len(u.Faults) != 0 || u.Took <= 0 {
		t.Errorf("got %+v", u)
	}
	w.Tell([]string{"/p/bad"})
	if u := next(t, answers); !slices.Equal(u.Faults, []Fault{{"/p/bad", 3, "so \"bad\"\n"}}) {
		t.Errorf("got %+v", u)
	}
	w.Retire()
	if w.Tell(nil) != 3 {
		t.Error("a page without further requests does not hear")
	}
	if u := next(t, answers); u.Files != nil || len(u.Faults) != 0 || u.Upto != 3 {
		t.Errorf("got %+v", u)
	}
	for n, want := range []string{"1 [/p/a b]", "1 [/p/bad]", "0 []"} {
		if got := out.line(t, n); got != want {
			t.Errorf("the page was told %q, want %q", got, want)
		}
	}
	if err := w.Stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	if w.Tell([]string{"/p/x"}) != 0 {
		t.Error("the dead hear")
	}
}

// What changes while a page starts may have come too late for it to read.
func TestTellOfWhatChangedDuringTheStart(t *testing.T) {
	answers, set := updates()
	begin := t.TempDir() + "/go"
	w, out := run(t, "page", set, func(s *Spec) { s.Env = append(s.Env, "WAIT="+begin) })
	if w.Tell([]string{"/p/a"}) != 0 {
		t.Error("a page that has not said so hears")
	}
	if err := os.WriteFile(begin, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if u := next(t, answers); u.Files != nil || out.line(t, 0) != "0 []" {
		t.Errorf("got %+v", u)
	}
}

// Nothing but the byte for the end of its requests is said to a page that knows no more.
func TestOldPagesAreToldNothing(t *testing.T) {
	for _, role := range []string{"old", "sdk", "http"} {
		w, out := run(t, role)
		mustBeReady(t, w)
		if w.Tell([]string{"/p/a"}) != 0 || w.Tell(nil) != 0 {
			t.Errorf("%s hears", role)
		}
		if role != "old" {
			w.Retire()
			continue
		}
		if got := out.get(Stdout); len(got) != 0 {
			t.Errorf("the page was told: %q", got)
		}
		w.Retire()
		if got := out.line(t, 0); got != "read 1" {
			t.Errorf("the page says %q", got)
		}
	}
}

// A page that does not read holds nobody up. What it is not told is kept in little, and is all told by one word.
func TestTellOfAPageThatDoesNotRead(t *testing.T) {
	w, _ := run(t, "deaf")
	listening(t, w)
	for i := range 100_000 {
		if w.Tell([]string{"/p/" + strconv.Itoa(i)}) != i+1 {
			t.Fatal("not told")
		}
		if i%1000 == 0 {
			w.Retire()
		}
	}
	w.news.mu.Lock()
	defer w.news.mu.Unlock()
	if n := &w.news; n.sent != 1 || n.upto != 1 || !n.waiting || !n.whole || len(n.files) > longestNews {
		t.Errorf("%d messages, waiting: %v, all: %v, %d files", n.sent, n.waiting, n.whole, len(n.files))
	}
}

func TestTellMany(t *testing.T) {
	answers, set := updates()
	w, out := run(t, "page", set)
	listening(t, w)
	var files []string
	for i := range 10_000 {
		files = append(files, "/p/"+strconv.Itoa(i))
	}
	w.Tell(files)
	if u := next(t, answers); u.Files != nil || out.line(t, 0) != "0 []" {
		t.Errorf("got %d files", len(u.Files))
	}
	w.Tell(files[:1])
	if u := next(t, answers); len(u.Files) != 1 {
		t.Errorf("got %d files", len(u.Files))
	}
}

func TestChatter(t *testing.T) {
	answers, set := updates()
	w, out := run(t, "chatter", set)
	listening(t, w)
	if w.Tell([]string{"/p/x"}) != 1 {
		t.Error("the page does not hear")
	}
	if u := next(t, answers); !slices.Equal(u.Faults, []Fault{{"/p/x", 1, "at last"}}) {
		t.Errorf("got %+v", u)
	}
	if got := out.line(t, 0); got != `changed 1 "/p/x" <nil>` {
		t.Errorf("the page was told %q", got)
	}
	if len(answers) != 0 {
		t.Errorf("a second answer: %+v", <-answers)
	}
}

// A page that takes long is reported, and so is its answer when it comes.
func TestLateAnswer(t *testing.T) {
	answers, set := updates()
	w, _ := run(t, "deaf", set)
	listening(t, w)
	w.Tell([]string{"/p/x"})
	w.unanswered() // as its timer does
	if u := next(t, answers); len(u.Faults) != 1 || !strings.Contains(u.Faults[0].Message, "has not answered within 10s") {
		t.Errorf("got %+v", u)
	}
	w.hear("done 1")
	if u := next(t, answers); len(u.Faults) != 0 {
		t.Errorf("got %+v", u)
	}
	w.unanswered()
	if len(answers) != 0 {
		t.Errorf("an answer that came is missed: %+v", <-answers)
	}
}
