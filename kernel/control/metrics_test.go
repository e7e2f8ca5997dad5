package control

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

func (f *fake) Metrics() []Metric { return testMetrics() }

func testMetrics() []Metric {
	return []Metric{
		{Name: "tqserver_a_total", Type: "counter", Help: "With a \\ and\na newline.", Series: []Series{
			{Labels: map[string]string{"page": `a"b\c` + "\nd\xff", "code": "2xx"}, Value: 1e15},
			{Labels: map[string]string{"page": "", "code": "2xx"}, Value: 0.25}}},
		{Name: "tqserver_none", Type: "gauge", Help: "No series."},
		{Name: "tqserver_b_seconds", Type: "histogram", Help: "Took.", Series: []Series{{Labels: map[string]string{"page": "x"},
			Histogram: &Histogram{Buckets: []Bucket{{"0.001", 2}, {"1", 5}, {"+Inf", 7}}, Sum: 12.5}}}},
		{Name: "tqserver_c", Type: "gauge", Help: "Bare.", Series: []Series{{Value: -3}}},
	}
}

const testText = `# HELP tqserver_a_total With a \\ and\na newline.
# TYPE tqserver_a_total counter
tqserver_a_total{code="2xx",page="a\"b\\c\nd�"} 1000000000000000
tqserver_a_total{code="2xx",page=""} 0.25
# HELP tqserver_b_seconds Took.
# TYPE tqserver_b_seconds histogram
tqserver_b_seconds_bucket{page="x",le="0.001"} 2
tqserver_b_seconds_bucket{page="x",le="1"} 5
tqserver_b_seconds_bucket{page="x",le="+Inf"} 7
tqserver_b_seconds_sum{page="x"} 12.5
tqserver_b_seconds_count{page="x"} 7
# HELP tqserver_c Bare.
# TYPE tqserver_c gauge
tqserver_c -3
`

func TestMetricsAreWritten(t *testing.T) {
	var b strings.Builder
	if err := WriteMetrics(&b, testMetrics()); err != nil || b.String() != testText {
		t.Errorf("got %v\n%s", err, b.String())
	}
}

func TestMetricsOverTheSocket(t *testing.T) {
	c, _ := serve(t, &fake{})
	want := testMetrics()
	want[0].Series[0].Labels["page"] = strings.ToValidUTF8(want[0].Series[0].Labels["page"], "\uFFFD")
	if got, err := c.Metrics(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	body, err := c.do(t.Context(), http.MethodGet, "/v1/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if text, err := io.ReadAll(body); err != nil || string(text) != testText {
		t.Errorf("got %v\n%s", err, text)
	}
}

func TestMetricsForAScraper(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ServeMetrics(ctx, lis, testMetrics) }()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	res, err := client.Get("http://" + lis.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || string(text) != testText || res.Header.Get("Content-Type") != ContentType {
		t.Errorf("got %v %v\n%s", err, res.Header, text)
	}
	for path, want := range map[string]int{"/": 404, "/v1/status": 404} {
		res, err := client.Get("http://" + lis.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		if res.Body.Close(); res.StatusCode != want {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestScraperLimitsDocument holds docs/timeouts.md to the program.
func TestScraperLimitsDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/timeouts.md")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("sends its request, takes the answer, keeps its connection | %d s, %d s, %d min |\n",
		scrapeRequest/time.Second, scrapeAnswer/time.Second, scrapeIdle/time.Minute)
	if !strings.Contains(string(text), want) {
		t.Errorf("the document does not have %q", want)
	}
}
