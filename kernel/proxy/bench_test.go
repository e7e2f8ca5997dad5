package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The worker and the clients of a benchmark are processes of their own, so
// that what this process uses is what proxying costs.
const roleVariable = "TQ_PROXY_BENCH_ROLE"

var roles = map[string]func(args []string) error{"worker": benchWorker, "clients": benchClients}

// playRole runs a role instead of the tests, if one was asked for.
func playRole() bool {
	role, ok := roles[os.Getenv(roleVariable)]
	if ok {
		if err := role(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	return ok
}

// helper is a process with a role.
type helper struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startHelper(b *testing.B, role string, args ...string) *helper {
	b.Helper()
	h := &helper{Cmd: exec.Command(os.Args[0], args...)}
	h.Env = append(os.Environ(), roleVariable+"="+role)
	h.Stderr = os.Stderr
	in, err := h.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := h.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	h.in, h.out = in, bufio.NewReader(out)
	if err := h.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); h.Wait() })
	return h
}

// line waits for the next line that the helper prints.
func (h *helper) line(b *testing.B) string {
	b.Helper()
	s, err := h.out.ReadString('\n')
	if err != nil {
		b.Fatal("helper: ", err)
	}
	return strings.TrimSpace(s)
}

// benchWorker serves bodies of the length that the path says until its input
// ends.
func benchWorker([]string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		n, _ := strconv.Atoi(r.URL.Path[1:])
		w.Header().Set("Content-Length", strconv.Itoa(n))
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(benchBody[:n])
	}))
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

var benchBody = bytes.Repeat([]byte("x"), 1<<20)

// benchClients sends requests over a number of connections, each time a line
// says how many and to whom, and prints a line when all are answered.
func benchClients(args []string) error {
	connections, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	request := strings.ReplaceAll(args[1], "|", "\r\n")
	size, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); fmt.Println("done") {
		var addr string
		var n int
		if _, err := fmt.Sscan(in.Text(), &addr, &n); err != nil {
			return err
		}
		var all sync.WaitGroup
		failed := make(chan error, connections)
		for range connections {
			all.Go(func() { failed <- benchClient(addr, request, n/connections, size) })
		}
		all.Wait()
		for range connections {
			if err := <-failed; err != nil {
				return err
			}
		}
	}
	return nil
}

func benchClient(addr, request string, n, size int) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	r := bufio.NewReaderSize(c, 64<<10)
	for range n {
		if _, err := io.WriteString(c, request); err != nil {
			return err
		}
		line, err := r.ReadSlice('\n')
		if err != nil || !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("%q, %v", line, err)
		}
		for len(line) > 2 {
			if line, err = r.ReadSlice('\n'); err != nil {
				return err
			}
		}
		if _, err := r.Discard(size); err != nil {
			return err
		}
	}
	return nil
}

const browserHeader = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0|" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8|Accept-Language: en-US,en;q=0.5|" +
	"Accept-Encoding: gzip, deflate, br|Cookie: session=0123456789abcdef0123456789abcdef|Cache-Control: no-cache|"

// BenchmarkForward measures what a request costs this process in CPU time and
// allocations: through the uplink, through httputil.ReverseProxy in the same
// place, and through a bare but tuned httputil.ReverseProxy that neither routes
// nor logs. Rounds alternate; the median counts.
func BenchmarkForward(b *testing.B) {
	worker := startHelper(b, "worker").line(b)
	for _, c := range []struct {
		name, request  string
		size, requests int
	}{
		{"GET-1KiB", "GET /1024 HTTP/1.1|Host: h|" + browserHeader + "|", 1024, 20_000},
		{"POST-1KiB", "POST /1024 HTTP/1.1|Host: h|" + browserHeader + "Content-Length: 1024||" + strings.Repeat("x", 1024), 1024, 20_000},
		{"GET-1MiB", "GET /1048576 HTTP/1.1|Host: h|" + browserHeader + "|", 1 << 20, 500},
	} {
		b.Run(c.name, func(b *testing.B) {
			clients := startHelper(b, "clients", "32", c.request, strconv.Itoa(c.size))
			compare(b, clients, c.requests, []contender{
				{name: "lane", addr: benchLane(b, worker)},
				{name: "uplink", addr: benchSite(b, uplink{}, worker)},
				{name: "reverse", addr: benchSite(b, newReverse(), worker)},
				{name: "tuned", addr: benchTuned(b, worker)},
			})
		})
	}
}

type contender struct {
	name, addr string
	cpu        []float64 // microseconds per request, by round
	allocs     []float64
	bytes      []float64
}

func compare(b *testing.B, clients *helper, requests int, all []contender) {
	const rounds = 5
	for b.Loop() {
		for round := range rounds + 1 {
			for i := range all {
				all[i].run(b, clients, requests, round > 0) // the first warms up
			}
		}
	}
	base := median(all[len(all)-1].cpu)
	for _, c := range all {
		b.ReportMetric(median(c.cpu), c.name+"-us/req")
		b.ReportMetric(median(c.allocs), c.name+"-allocs/req")
		b.ReportMetric(median(c.bytes), c.name+"-B/req")
		b.ReportMetric(median(c.cpu)/base, c.name+"/tuned")
	}
}

func (c *contender) run(b *testing.B, clients *helper, requests int, counts bool) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := cpuTime(b)
	fmt.Fprintln(clients.in, c.addr, requests)
	clients.line(b)
	spent := cpuTime(b) - begin
	runtime.ReadMemStats(&after)
	if counts {
		c.cpu = append(c.cpu, float64(spent.Nanoseconds())/1e3/float64(requests))
		c.allocs = append(c.allocs, float64(after.Mallocs-before.Mallocs)/float64(requests))
		c.bytes = append(c.bytes, float64(after.TotalAlloc-before.TotalAlloc)/float64(requests))
	}
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// benchSite is a whole proxy as the kernel runs it, with a log that takes the
// entries.
func benchSite(b *testing.B, f forwarder, worker string) string {
	return benchFront(b, benchProxy(b, f, worker))
}

// benchLane is benchSite with lane R in front.
func benchLane(b *testing.B, worker string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	f := newFastSite(benchProxy(b, uplink{}, worker), l, laneTimeouts(30*time.Second, 2*time.Minute))
	b.Cleanup(f.stop)
	return f.Addr().String()
}

func benchProxy(b *testing.B, f forwarder, worker string) *Proxy {
	p := New(Options{Timeouts: func() Timeouts { return Timeouts{Read: 30 * time.Second, Write: 30 * time.Second} }, Log: func(*Entry) {}})
	p.forward = f
	backend := NewBackend("index", BackendOptions{})
	e := NewEndpoint(EndpointOptions{Addr: worker, ResponseTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute})
	backend.Set(e)
	b.Cleanup(e.Close)
	if err := p.SetRoutes([]Route{{Path: "/", Backend: backend}}); err != nil {
		b.Fatal(err)
	}
	return p
}

func benchTuned(b *testing.B, worker string) string {
	transport := &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true, IdleConnTimeout: 90 * time.Second,
		WriteBufferSize: 8 << 10, ReadBufferSize: 16 << 10}
	b.Cleanup(transport.CloseIdleConnections)
	return benchFront(b, &httputil.ReverseProxy{
		Transport:  transport,
		BufferPool: buffers{},
		ErrorLog:   log.New(io.Discard, "", 0),
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: worker})
			pr.Out.Host = pr.In.Host
			pr.SetXForwarded()
		},
	})
}

func benchFront(b *testing.B, h http.Handler) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }()
	b.Cleanup(func() { server.Close(); <-done })
	return l.Addr().String()
}
