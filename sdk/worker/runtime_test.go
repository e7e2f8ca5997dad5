package worker

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

func TestNewRuntimeReadsEnvironment(t *testing.T) {
	for name, value := range map[string]string{
		"TQ_PORT": "9123", "TQ_MAX_REQUESTS": "5000", "TQ_READ_TIMEOUT_SECONDS": "15", "TQ_WRITE_TIMEOUT_SECONDS": "16",
		"TQ_IDLE_TIMEOUT_SECONDS": "60", "TQ_SHUTDOWN_GRACE_PERIOD_MS": "750", "TQ_LOG_FILE": "logs/api.log",
		"TQ_ROUTE": "/api", "TQ_PAGE": "api", "TQ_PAGE_DIR": "/site/pages/api", "TQ_RELEASE": "c0ffee",
	} {
		t.Setenv(name, value)
	}
	r, err := NewRuntime()
	if err != nil {
		t.Fatal(err)
	}
	numbers := [...]int{r.Port, r.MaxRequests, r.ReadTimeout, r.WriteTimeout, r.IdleTimeout, r.ShutdownTimeout}
	if numbers != [...]int{9123, 5000, 15, 16, 60, 750} {
		t.Errorf("numbers = %v", numbers)
	}
	texts := [...]string{r.LogFile, r.Route, r.Page, r.PageDir, r.Release}
	if texts != [...]string{"logs/api.log", "/api", "api", "/site/pages/api", "c0ffee"} {
		t.Errorf("texts = %q", texts)
	}
}

func TestNewRuntimeDefaults(t *testing.T) {
	t.Setenv("TQ_PORT", "9000") // keeps stderr quiet; TestStartedByHand has it unset
	r, err := NewRuntime()
	if err != nil {
		t.Fatal(err)
	}
	numbers := [...]int{r.MaxRequests, r.ReadTimeout, r.WriteTimeout, r.IdleTimeout, r.ShutdownTimeout}
	if numbers != [...]int{0, 30, 30, 120, 500} || r.Route != "/" {
		t.Errorf("defaults = %v, route %q", numbers, r.Route)
	}
}

func TestNewRuntimeRefusesMalformed(t *testing.T) {
	for _, c := range []struct{ name, value, expected string }{
		{"TQ_PORT", "http", "port number"},
		{"TQ_PORT", "0", "1 to 65535"},
		{"TQ_PORT", "65536", "1 to 65535"},
		{"TQ_MAX_REQUESTS", "-1", "number of requests"},
		{"TQ_READ_TIMEOUT_SECONDS", "30s", "whole seconds"},
		{"TQ_WRITE_TIMEOUT_SECONDS", "1.5", "whole seconds"},
		{"TQ_IDLE_TIMEOUT_SECONDS", "99999999999", "whole seconds"},
		{"TQ_SHUTDOWN_GRACE_PERIOD_MS", " 500", "whole milliseconds"},
		{"TQ_READY_FD", "three", "open pipe"},
		{"TQ_READY_FD", "1", "open pipe"},
		{"TQ_READY_FD", "99999", "open pipe"},
	} {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			t.Setenv("TQ_PORT", "9000")
			t.Setenv(c.name, c.value)
			_, err := NewRuntime()
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range []string{c.name, `"` + c.value + `"`, c.expected} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if _, set := os.LookupEnv("TQ_READY_FD"); set {
				t.Error("TQ_READY_FD is left for children to see")
			}
		})
	}
}

func TestNewRuntimeReportsEveryProblem(t *testing.T) {
	t.Setenv("TQ_PORT", "x")
	t.Setenv("TQ_MAX_REQUESTS", "y")
	_, err := NewRuntime()
	if err == nil || !strings.Contains(err.Error(), "TQ_PORT") || !strings.Contains(err.Error(), "TQ_MAX_REQUESTS") {
		t.Errorf("error = %v, want both variables", err)
	}
}

func TestCounting(t *testing.T) {
	r := &Runtime{MaxRequests: 2}
	h := r.serve(withHealth(http.NewServeMux()))
	want := func(count int32, shutdown bool) {
		t.Helper()
		if r.GetRequestCount() != count || r.ShouldShutdown() != shutdown {
			t.Errorf("count %d, shutdown %v; want %d, %v", r.GetRequestCount(), r.ShouldShutdown(), count, shutdown)
		}
	}
	want(0, false)
	for _, path := range []string{"/health", "/a", "/health"} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
	}
	want(1, false)
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/healthy", nil))
	want(2, true)
	r.MaxRequests = 0
	want(2, false)
	r.requests.Store(1 << 40)
	want(1<<31-1, false)
}

func TestHealth(t *testing.T) {
	own := func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) }
	for _, c := range []struct {
		pattern, method string
		want            int
	}{
		{"/other", "GET", 200},
		{"/", "GET", 200},
		{"GET /", "GET", 200},
		{"GET /{path...}", "GET", 200},
		{"/", "HEAD", 200},
		{"/", "POST", http.StatusTeapot},
		{"POST /health", "GET", 200},
		{"/health", "GET", http.StatusTeapot},
		{"GET /health", "GET", http.StatusTeapot},
		{"GET /health", "HEAD", http.StatusTeapot},
		{"GET example.com/health", "GET", http.StatusTeapot},
		{"GET example.org/health", "GET", 200},
	} {
		mux := http.NewServeMux()
		mux.HandleFunc(c.pattern, own)
		w := httptest.NewRecorder()
		withHealth(mux).ServeHTTP(w, httptest.NewRequest(c.method, "http://example.com/health", nil))
		if w.Code != c.want {
			t.Errorf("page with %q: %s /health = %d, want %d", c.pattern, c.method, w.Code, c.want)
		}
		if c.method == "GET" && c.want == 200 && w.Body.String() != "OK" {
			t.Errorf("page with %q: body %q, want OK", c.pattern, w.Body)
		}
	}
}

func TestHealthOfOtherHandlers(t *testing.T) {
	w := httptest.NewRecorder()
	withHealth(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "/health", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("/health of a plain handler = %d, want its own 404", w.Code)
	}
	w = httptest.NewRecorder()
	withHealth(nil).ServeHTTP(w, httptest.NewRequest("GET", "/health", nil))
	if w.Code != http.StatusOK {
		t.Errorf("/health of the default mux = %d, want 200", w.Code)
	}
}

func TestHeaderTimeout(t *testing.T) {
	for _, c := range []struct{ read, idle, want int }{{30, 120, 120}, {60, 20, 60}, {0, 120, 0}, {30, 0, 0}} {
		r := &Runtime{ReadTimeout: c.read, IdleTimeout: c.idle}
		if got := r.headerTimeout(); got != seconds(c.want) {
			t.Errorf("read %d, idle %d: %v, want %ds", c.read, c.idle, got, c.want)
		}
	}
}

// A hijacked connection is out of the server's hands, its handler is not.
func TestFlight(t *testing.T) {
	var f flight
	conn := new(net.TCPConn)
	f.connState(conn, http.StateNew)
	f.connState(conn, http.StateActive)
	f.enter()
	landed := f.landed()
	wantFlying := func(when string) {
		t.Helper()
		select {
		case <-landed:
			t.Fatal("landed " + when)
		default:
		}
	}
	f.leave()
	wantFlying("while the response is being written")
	f.connState(conn, http.StateIdle)
	<-f.landed()

	f.empty = nil
	f.connState(conn, http.StateActive)
	f.enter()
	landed = f.landed()
	f.connState(conn, http.StateHijacked)
	wantFlying("while the handler of a hijacked connection runs")
	f.leave()
	<-landed
	f.connState(conn, http.StateClosed)
}
