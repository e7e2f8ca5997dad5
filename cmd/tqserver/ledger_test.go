//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestLedger: a POST is executed exactly once, or, where its worker died, at most once and with an error to the client.
// The page writes the id of each request that it executes into a ledger before it answers. In the first half pages are
// saved and rolled back, and every POST must succeed; in the second half workers are killed as well.
// TQSERVER_LEDGER says how many requests there are.
func TestLedger(t *testing.T) {
	t.Parallel()
	ways := waysToWorkers()
	n := amount(t, "TQSERVER_LEDGER", 3000) / len(ways)
	eachOf(t, ways, func(t *testing.T, l lane) {
		b := newBooks(t, l)
		quiet := b.post(n/2, b.change, 3)
		if quiet.failed > 0 {
			t.Errorf("%d POSTs failed although no worker was killed, the last with %+v", quiet.failed, *b.failure.Load())
		}
		rough := b.post(n-n/2, b.changeAndKill, 6)
		b.stop()
		b.audit()
		t.Logf("%d POSTs through %d changes, then %d through %d changes and kills: %d of these failed, %d of which had been executed",
			quiet.sent, quiet.events, rough.sent, rough.events, rough.failed, b.lost)
	})
}

// books is a site whose page keeps a ledger, and what its clients were told.
type books struct {
	*site
	ledger string
	saves  int
	ids    atomic.Int64
	mu     sync.Mutex
	told   map[int64]outcome
	lost   int // executed, but the client was told otherwise

	failure atomic.Pointer[outcome] // the last one
}

// outcome is what the client of a request got.
type outcome struct {
	status int    // 0: none that is whole
	kind   string // X-TQ-Error
	err    error
}

// newBooks starts the site. A kill must be made good by another worker of the same release, and neither wait nor tire.
func newBooks(t *testing.T, l lane) *books {
	t.Helper()
	b := &books{site: newSite(t, map[string]string{"pages/index/main.go": ledgerPage, "pages/index/version.go": ownVersion(0)}), told: map[int64]outcome{}}
	b.ledger = filepath.Join(b.dir, "ledger")
	b.configure("log_level: error\n"+l.server, fmt.Sprintf("probation_ms: 0\ndefault:\n  env: {LEDGER: %q}\n  %s", b.ledger, l.page), "")
	b.start()
	b.awaitBody("/", "0")
	return b
}

// tally is what one half of the test did.
type tally struct{ sent, failed, events int }

// post has clients send n requests at least, and events happen meanwhile, a number of them at least.
func (b *books) post(n int, event func(i int), events int) (t tally) {
	var sent, failed atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			p := &poster{books: b, fresh: i%4 == 3}
			defer p.hangUp()
			for seed := i; ; seed++ {
				select {
				case <-stop:
					return
				default:
					n, bad := p.send(seed)
					sent.Add(n)
					failed.Add(bad)
				}
			}
		})
	}
	defer func() {
		close(stop)
		clients.Wait()
		t.sent, t.failed = int(sent.Load()), int(failed.Load())
	}()
	for t.events < events || int(sent.Load()) < n {
		event(t.events)
		t.events++
	}
	return t
}

// change saves the page, or takes it back to the release before.
func (b *books) change(i int) {
	b.t.Helper()
	if i%3 == 2 {
		if _, stderr, err := b.run("rollback", "index"); err != nil {
			b.t.Fatalf("rollback: %v: %s", err, stderr)
		}
		return
	}
	b.saves++
	b.write("pages/index/version.go", ownVersion(b.saves))
	b.awaitBody("/", fmt.Sprint(b.saves))
}

// changeAndKill kills the worker between two changes, which start while it is being replaced.
func (b *books) changeAndKill(i int) {
	b.t.Helper()
	if i%3 == 2 {
		b.change(i / 3)
		return
	}
	old := 0
	b.await("a worker to kill", func() error {
		for _, w := range b.page("index").Workers {
			if w.State == "serving" && w.PID > 0 && w.InFlight > 0 {
				old = w.PID
				return nil
			}
		}
		return fmt.Errorf("none has a request")
	})
	b.signal(old, syscall.SIGKILL)
}

// audit compares the ledger with what the clients were told.
func (b *books) audit() {
	b.t.Helper()
	f, err := os.Open(b.ledger)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	executed := map[int64]int{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var id int64
		if _, err := fmt.Sscanf(lines.Text(), "%d.", &id); err != nil {
			b.t.Fatalf("line %q of the ledger: %v", lines.Text(), err)
		}
		executed[id]++
	}
	for id, n := range executed {
		if _, sent := b.told[id]; !sent {
			b.t.Errorf("request %d was executed %d times, and never sent", id, n)
		}
	}
	for id, o := range b.told {
		b.judge(id, o, executed[id])
	}
}

func (b *books) judge(id int64, o outcome, n int) {
	b.t.Helper()
	switch {
	case o.status == 200 && n != 1:
		b.t.Errorf("request %d was answered 200 and executed %d times", id, n)
	case n > 1:
		b.t.Errorf("request %d was executed %d times and answered %d %s, %v", id, n, o.status, o.kind, o.err)
	case n > 0 && o.status != 200 && o.status != 502 && o.status != 0:
		b.t.Errorf("request %d was executed and answered %d %s, which says that it was not", id, o.status, o.kind)
	case n > 0 && o.kind == "dial":
		b.t.Errorf("request %d was executed, by a worker that takes no connections", id)
	case n > 0 && o.status != 200:
		b.lost++
	}
}

// poster is one client. It sends everything once.
type poster struct {
	*books
	fresh bool // a connection for each request
	conn  net.Conn
	r     *bufio.Reader
}

func (p *poster) hangUp() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}

// send posts once, or twice at a time without waiting in between, and notes how each ended.
func (p *poster) send(seed int) (sent, failed int64) {
	if p.conn == nil {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.port))
		if err != nil {
			p.t.Errorf("connect to the server: %v", err)
			return 0, 0
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		p.conn, p.r = conn, bufio.NewReader(conn)
	}
	var ids []int64
	text := ""
	n := 1
	if seed%13 == 12 && !p.fresh {
		n = 2
	}
	for range n {
		id := p.ids.Add(1)
		ids = append(ids, id)
		text += postOf(id, seed, p.fresh)
	}
	var writing sync.WaitGroup
	conn := p.conn
	writing.Go(func() { _, _ = io.WriteString(conn, text) }) // an error shows as the lack of an answer
	defer writing.Wait()
	for _, id := range ids {
		o := p.outcome(id)
		if o.status != 200 {
			failed++
			p.failure.Store(&o)
			p.hangUp()
		}
		p.mu.Lock()
		p.told[id] = o
		p.mu.Unlock()
	}
	if p.fresh {
		p.hangUp()
	}
	return int64(len(ids)), failed
}

// postOf is a request whose body consists of its id. A later one never looks like it.
func postOf(id int64, seed int, last bool) string {
	head := fmt.Sprintf("POST /?id=%d HTTP/1.1\r\nHost: localhost\r\n", id)
	if last {
		head += "Connection: close\r\n"
	}
	word := fmt.Sprintf("%d.", id)
	small, large := strings.Repeat(word, 3), strings.Repeat(word, 100_000/len(word))
	switch seed % 6 {
	case 0:
		return head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(large), large)
	case 1:
		return head + "Transfer-Encoding: chunked\r\n\r\n" + chunk(small) + chunk(large) + chunk(word) + chunk("")
	case 2:
		return head + fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n\r\n%s", len(small), small)
	case 3:
		return head + "Content-Length: 0\r\n\r\n"
	case 4:
		return head + "Transfer-Encoding: chunked\r\n\r\n" + chunk(small) + chunk("")
	}
	return head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(small), small)
}

func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// outcome reads an answer: what looks whole must be the answer to this very request.
func (p *poster) outcome(id int64) outcome {
	if p.conn == nil {
		return outcome{err: net.ErrClosed} // the request before had this one's connection end
	}
	for {
		res, err := http.ReadResponse(p.r, &http.Request{Method: "POST"})
		if err != nil {
			return outcome{err: err}
		}
		if res.StatusCode == 100 {
			continue
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return outcome{err: err}
		}
		if res.StatusCode == 200 && string(body) != fmt.Sprintf("did %d.", id) {
			p.t.Errorf("request %d got the answer %q", id, body)
		}
		return outcome{status: res.StatusCode, kind: res.Header.Get("X-TQ-Error")}
	}
}

// ledgerPage writes the id of each request that it has got whole into the ledger. Every tenth takes a little longer, so
// that a kill meets requests on both sides of that.
const ledgerPage = `package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tqserver/tqserver/sdk/worker"
)

func main() {
	runtime, err := worker.NewRuntime()
	if err != nil {
		log.Fatal(err)
	}
	ledger, err := os.OpenFile(os.Getenv("LEDGER"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			fmt.Fprintln(w, ownVersion)
			return
		}
		word := r.FormValue("id") + "."
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != strings.Repeat(word, len(body)/len(word)) {
			http.Error(w, "that is not the body of " + word, http.StatusBadRequest)
			return
		}
		slow := strings.HasSuffix(word, "0.")
		if slow {
			time.Sleep(2 * time.Millisecond)
		}
		if _, err := io.WriteString(ledger, word+"\n"); err != nil {
			log.Fatal(err)
		}
		if slow {
			time.Sleep(2 * time.Millisecond)
		}
		fmt.Fprint(w, "did "+word)
	})
	if err := runtime.StartServer(http.DefaultServeMux); err != nil {
		log.Fatal(err)
	}
}
`
