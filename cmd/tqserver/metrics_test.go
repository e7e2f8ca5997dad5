//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/control"
)

const stallingPage = `	http.HandleFunc("/mute", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	http.HandleFunc("/stall", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "begun")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	http.HandleFunc("/flood", func(w http.ResponseWriter, r *http.Request) {
		for piece := make([]byte, 64<<10); ; {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})
	http.HandleFunc("/", `

// TestTimeoutsFire lets the limits of docs/timeouts.md pass in a running server: each is named in the answer, as far as
// there is one, in the log, with the key that sets it, and in the metrics, which are well-formed.
func TestTimeoutsFire(t *testing.T) {
	s := newSite(t, map[string]string{"pages/index/main.go": strings.Replace(plainPage("ok"), `	http.HandleFunc("/", `, stallingPage, 1)})
	scraped := freePort(t)
	s.configure(fmt.Sprintf("read_timeout_seconds: 1\nwrite_timeout_seconds: 1\nidle_timeout_seconds: 1\nmetrics: 127.0.0.1:%d", scraped),
		"default: {write_timeout_seconds: 1, stream_idle_timeout_seconds: 1}", "")
	s.start()
	s.awaitBody("/", "ok")

	kinds := []struct{ request, answer, kind, page, cause string }{
		{"GET /mute HTTP/1.1\r\nHost: h\r\n\r\n", "504", "response_timeout", "index", "the worker sent no answer for 1s (workers.default.write_timeout_seconds)"},
		{"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab", "408", "read_timeout", "index", "the client sent nothing more of its request for 1s (server.read_timeout_seconds)"},
		{"GET /stall HTTP/1.1\r\nHost: h\r\n\r\n", "200", "stream_idle_timeout", "index", "(workers.default.stream_idle_timeout_seconds)"},
		{"GET /flood HTTP/1.1\r\nHost: h\r\n\r\n", "", "write_timeout", "index", "the client took nothing of the answer for 1s (server.write_timeout_seconds)"},
		{"GET /head HTTP/1.1\r\nHo", "408", "read_timeout", "", "the whole head of a request in time (server.read_timeout_seconds)"},
		{"PUT /bad HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n", "400", "bad_request", "", "header name is not a token"},
		{"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n", "200", "", "", ""},
		{"GET http://h/handed/over HTTP/1.1\r\nHost: h\r\n\r\n", "200", "", "", ""},
	}
	var clients sync.WaitGroup
	for _, c := range kinds {
		clients.Go(func() { s.provoke(c.request, c.answer, c.kind) })
	}
	clients.Wait()
	for _, c := range kinds[:6] {
		s.await("the log to name "+c.kind, func() error {
			log := readAll(t, s.path("logs"))
			for line := range strings.Lines(log) {
				if _, text, _ := strings.Cut(line, `error="`); strings.HasPrefix(text, c.kind+": ") && strings.Contains(text, c.cause) {
					return nil
				}
			}
			return fmt.Errorf("it has %q", tail(log, 2000))
		})
	}
	s.await("idle connections to be counted", func() error { return idledIn(parseMetrics(t, s.scrape(scraped))) })
	out, _, err := s.run("metrics")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"command": out, "scraper": s.scrape(scraped)} {
		samples := parseMetrics(t, text)
		for _, c := range kinds[:6] {
			if got := samples[`tqserver_request_faults_total{kind="`+c.kind+`",page="`+c.page+`"}`]; got != 1 {
				t.Errorf("%s: %s is counted %v times", name, c.kind, got)
			}
		}
		if err := idledIn(samples); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := samples[`tqserver_requests_total{code="5xx",page="index"}`]; got != 1 {
			t.Errorf("%s: %v answers with 5xx", name, got)
		}
		if got := samples[`tqserver_workers{page="index",state="serving"}`]; got != 1 {
			t.Errorf("%s: %v workers", name, got)
		}
	}
	out, _, err = s.run("metrics", "--json")
	var all []control.Metric
	if err != nil || json.Unmarshal([]byte(out), &all) != nil || !slices.ContainsFunc(all, func(m control.Metric) bool { return m.Name == "tqserver_requests_total" && len(m.Series) > 5 }) {
		t.Errorf("as JSON: %v, %.300s", err, out)
	}
}

// idledIn wants idle connections that were closed, in both lanes.
func idledIn(samples map[string]float64) error {
	for _, lane := range []string{"fast", "standard"} {
		if samples[`tqserver_connections_closed_idle_total{lane="`+lane+`"}`] < 1 {
			return fmt.Errorf("none in the %s lane", lane)
		}
	}
	return nil
}

// provoke sends a request and waits until the server has ended it: with an answer, and by closing the connection where
// the answer cannot be whole. A client that is to get no answer does not read, and is not waited for.
func (s *site) provoke(request, answer, kind string) {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		s.t.Error(err)
		return
	}
	s.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Error(err)
		return
	}
	if answer == "" {
		return // the log will tell
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		s.t.Errorf("%s: %v", request, err)
		return
	}
	_, cut := io.ReadAll(res.Body)
	_, err = r.ReadByte() // until an idle connection is closed, too
	refused := res.StatusCode >= 400
	if got := res.Header.Get("X-TQ-Error"); res.Status[:3] != answer || refused && got != kind || (cut != nil) != (!refused && kind != "") || err != io.EOF {
		s.t.Errorf("%s: %s, X-TQ-Error %q, %v", request, res.Status, got, cut)
	}
}

func (s *site) scrape(port int) string {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != control.ContentType {
		s.t.Fatalf("scrape: %s %v %v", res.Status, res.Header, err)
	}
	return string(text)
}

var (
	metricHead  = regexp.MustCompile(`^# (HELP|TYPE) (tqserver_[a-z_]+) (.+)$`)
	metricLine  = regexp.MustCompile(`^(tqserver_[a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)+)\})? (\S+)$`)
	metricLabel = regexp.MustCompile(`([a-z_]+)="((?:[^"\\]|\\.)*)"(?:,|$)`)
)

// parseMetrics reads the text format 0.0.4 strictly, as its description has it, and gives the samples by their names.
func parseMetrics(t *testing.T, text string) map[string]float64 {
	t.Helper()
	samples, seen := map[string]float64{}, map[string]bool{}
	name, kind, help := "", "", ""
	for line := range strings.Lines(text) {
		line, ended := strings.CutSuffix(line, "\n")
		if h := metricHead.FindStringSubmatch(line); h != nil && ended {
			if h[1] == "HELP" {
				help = h[2]
				continue
			}
			if name, kind = h[2], h[3]; seen[name] || help != name || !slices.Contains([]string{"counter", "gauge", "histogram"}, kind) {
				t.Errorf("line %q comes twice, without its HELP, or has no known type", line)
			}
			seen[name] = true
			if strings.HasSuffix(name, "_total") != (kind == "counter") {
				t.Errorf("%s is a %s", name, kind)
			}
			continue
		}
		m := metricLine.FindStringSubmatch(line)
		value, err := 0.0, error(nil)
		if m != nil {
			value, err = strconv.ParseFloat(m[3], 64)
		}
		base := name
		if m != nil && kind == "histogram" {
			base += m[1][min(len(name), len(m[1])):]
			if !slices.Contains([]string{"_bucket", "_sum", "_count"}, strings.TrimPrefix(m[1], name)) {
				t.Errorf("%s is no part of a histogram", m[1])
			}
		}
		if m == nil || !ended || err != nil || m[1] != base || kind != "gauge" && (value < 0 || math.IsNaN(value)) {
			t.Fatalf("line %q is malformed, in the wrong place, or has a bad value", line)
		}
		key := strings.TrimSuffix(line, " "+m[3])
		if _, twice := samples[key]; twice {
			t.Errorf("%s comes twice", key)
		}
		samples[key] = value
	}
	checkHistograms(t, text, samples)
	return samples
}

// checkHistograms: buckets grow, and the last is +Inf and has as much as the count.
func checkHistograms(t *testing.T, text string, samples map[string]float64) {
	t.Helper()
	last, above, group := 0.0, math.Inf(-1), ""
	for line := range strings.Lines(text) {
		m := metricLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil || !strings.HasSuffix(m[1], "_bucket") {
			continue
		}
		le, others := "", []string{}
		for _, l := range metricLabel.FindAllStringSubmatch(m[2], -1) {
			if l[1] == "le" {
				le = l[2]
			} else {
				others = append(others, l[1]+`="`+l[2]+`"`)
			}
		}
		if g := strings.Join(others, ","); g != group {
			group, last, above = g, 0, math.Inf(-1)
		}
		bound, err := strconv.ParseFloat(le, 64)
		value := samples[strings.TrimSuffix(line, " "+m[3]+"\n")]
		if err != nil || bound <= above || value < last {
			t.Errorf("bucket %q does not grow", line)
		}
		if last, above = value, bound; math.IsInf(bound, 1) {
			count := strings.TrimSuffix(m[1], "_bucket") + "_count{" + group + "}"
			if samples[count] != value {
				t.Errorf("%s is %v, the last bucket %v", count, samples[count], value)
			}
		}
	}
	if !math.IsInf(above, 1) {
		t.Error("a histogram does not end with +Inf")
	}
}
