package control

import (
	"bufio"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Metric is one number, or one histogram, for everything that its labels tell apart.
type Metric struct {
	Name   string   `json:"name"`
	Type   string   `json:"type"` // counter, gauge or histogram
	Help   string   `json:"help"`
	Series []Series `json:"series"`
}

// Series is the value for one set of labels. No two series of a metric have the same.
type Series struct {
	Labels    map[string]string `json:"labels,omitempty"`
	Value     float64           `json:"value"`
	Histogram *Histogram        `json:"histogram,omitempty"` // in place of the value
}

// Histogram has how many things there were up to each bound, and in all.
type Histogram struct {
	Buckets []Bucket `json:"buckets"` // in order, each with those before it; the last is +Inf, with all
	Sum     float64  `json:"sum"`
}

// Bucket counts what was not above a bound.
type Bucket struct {
	LE    string `json:"le"` // as the text format has it
	Count uint64 `json:"count"`
}

// ContentType is that of what WriteMetrics writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// WriteMetrics writes the text format 0.0.4 of Prometheus. A metric without series is left out.
func WriteMetrics(w io.Writer, all []Metric) error {
	out := bufio.NewWriter(w)
	for _, m := range all {
		if len(m.Series) == 0 {
			continue
		}
		out.WriteString("# HELP " + m.Name + " " + helpEscapes.Replace(m.Help) + "\n")
		out.WriteString("# TYPE " + m.Name + " " + m.Type + "\n")
		for _, s := range m.Series {
			writeSeries(out, m.Name, s)
		}
	}
	return out.Flush() // of the first error, too
}

var (
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func writeSeries(out *bufio.Writer, name string, s Series) {
	if s.Histogram == nil {
		writeSample(out, name, s.Labels, "", s.Value)
		return
	}
	count := uint64(0)
	for _, b := range s.Histogram.Buckets {
		count = b.Count
		writeSample(out, name+"_bucket", s.Labels, b.LE, float64(count))
	}
	writeSample(out, name+"_sum", s.Labels, "", s.Histogram.Sum)
	writeSample(out, name+"_count", s.Labels, "", float64(count))
}

func writeSample(out *bufio.Writer, name string, labels map[string]string, le string, value float64) {
	out.WriteString(name)
	between := byte('{')
	pair := func(name, value string) {
		out.WriteByte(between)
		out.WriteString(name + `="` + labelEscapes.Replace(strings.ToValidUTF8(value, "\uFFFD")) + `"`)
		between = ','
	}
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		pair(label, labels[label])
	}
	if le != "" {
		pair("le", le)
	}
	if between == ',' {
		out.WriteByte('}')
	}
	out.WriteString(" " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
}

// Metrics asks for all metrics.
func (c *Client) Metrics(ctx context.Context) (out []Metric, err error) {
	return out, c.call(ctx, http.MethodGet, "/v1/metrics?format=json", &out)
}

func metrics(w http.ResponseWriter, r *http.Request, all []Metric) {
	if r.URL.Query().Get("format") == "json" {
		answer(w, all, nil)
		return
	}
	w.Header().Set("Content-Type", ContentType)
	_ = WriteMetrics(w, all) // the client is gone
}

// The limits of scrapers; a slow one is cut off.
const (
	scrapeRequest = 5 * time.Second
	scrapeAnswer  = 30 * time.Second
	scrapeIdle    = 2 * time.Minute
)

// ServeMetrics answers GET /metrics until ctx ends, for whoever can reach the listener.
func ServeMetrics(ctx context.Context, lis net.Listener, collect func() []Metric) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ContentType)
		_ = WriteMetrics(w, collect())
	})
	srv := &http.Server{Handler: mux, ReadTimeout: scrapeRequest, WriteTimeout: scrapeAnswer, IdleTimeout: scrapeIdle, MaxHeaderBytes: 8 << 10}
	return answerAll(ctx, lis, srv, "metrics")
}
