//go:build linux

package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// wellFormed reads an SVG to its end, and gives its texts.
func wellFormed(t *testing.T, name, svg string) (texts []string) {
	t.Helper()
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") || strings.Contains(svg, "%!") {
		t.Errorf("%s has a number that is none:\n%s", name, svg)
	}
	for in := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := in.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		if err != nil {
			t.Fatalf("%s is not well-formed: %v\n%s", name, err, svg)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if token.Name.Local == "script" || token.Name.Local == "foreignObject" {
				t.Errorf("%s has a %s", name, token.Name.Local)
			}
		case xml.CharData:
			texts = append(texts, string(token))
		}
	}
}

func TestBarChart(t *testing.T) {
	bars := []bar{
		{label: `<b> & "quotes"`, value: 12.5, low: 10, high: 30, strong: true},
		{value: 3, continuesGroup: true, series: 1},
		{label: "nothing"},
	}
	texts := strings.Join(wellFormed(t, "chart", barChart("a < b", "note & more", []string{"p50", "p99"}, bars)), "\n")
	for _, want := range []string{`<b> & "quotes"`, "a < b", "note & more", "p50", "p99", "12", "nothing"} {
		if !strings.Contains(texts, want) {
			t.Errorf("no text %q", want)
		}
	}
	if !strings.Contains(barChart("", "", nil, bars), "prefers-color-scheme: dark") {
		t.Error("the chart does not know of dark grounds")
	}
	wellFormed(t, "empty chart", barChart("", "", nil, nil))
}

func TestNiceStep(t *testing.T) {
	for v, want := range map[float64]float64{0: 1, 1: 0.2, 7: 1, 8: 2, 30: 5, 100: 20, 12345: 2000} {
		if got := niceStep(v); fmt.Sprint(got) != fmt.Sprint(want) || v > 0 && v/got > 7 {
			t.Errorf("the step for %v is %v, not %v", v, got, want)
		}
	}
}

// sample is a run in which lane R needs 1.2 times what nginx does.
func sample() *results {
	r := newResults(options{args: []string{"-quick"}})
	r.Lanes = true
	r.Peers = []variant{{laneR, "fast_lane: true"}}
	r.Missing = []missing{{"caddy", "go install x"}}
	c := &comparison{ID: "get-1k", Title: "GET, 1 KiB", Procs: 1}
	for i, name := range []string{laneR, laneS, nginxPlain, reverseTuned} {
		cpu := []float64{24, 40, 20, 80}[i]
		c.Series = append(c.Series, &series{Peer: name, CPU: []float64{cpu, cpu * 2, cpu}, Rate: []float64{100, 50, 100}, P50: []float64{100, 200, 100},
			P99: []float64{1000, 2000, 1000}, P999: []float64{3000, 3000, 3000}, Requests: 250})
	}
	c.Series[0].Parts = map[string][]float64{"kernel": {20, 40, 20}, "rotator": {3, 6, 3}, "checker": {0.5, 1, 0.5}, "builder": {0.5, 1, 0.5}}
	large := *c
	large.ID, large.Title = "get-1m", "GET, 1 MiB"
	r.CPU, r.Matrix, r.Cores = c, []*comparison{&large}, c
	r.Latency = []*fixedRate{{comparison: *c, Rate: 50, Choice: "half of nginx's maximum", Left: []string{"Caddy"}}}
	r.Reload = []*reloading{{Peer: laneR, Way: "save", Rate: 50, Reloads: 50, Quiet: c.of(laneR), During: c.of(laneR)}}
	r.Routes = []routed{{*c, 1000}}
	r.Memory = []held{{Peer: laneR, memory: memory{100 << 10, 50 << 10}}, {Peer: laneR, Connections: 1024, memory: memory{200 << 10, 60 << 10}}}
	r.Allocs = parseBenchmarks("BenchmarkLookup-2   \t 1000 \t 120.5 ns/op\t 0 B/op\t 0 allocs/op\nBenchmarkForward/GET-1KiB  1  5 ns/op  0.02 fast-allocs/req  25.1 fast-us/req  30 fast-B/req\nPASS\n")
	r.Problems = []string{"one\nproblem"}
	return r
}

func TestReport(t *testing.T) {
	files := sample().files()
	text := files["results.md"]
	for _, want := range []string{
		"| CPU per request, GET 1 KiB, lane R ÷ nginx | 1.30 | **1.20** | 1.20 to 1.20 | holds |",
		"| the same, lane R ÷ Caddy | 0.30 | not measured |",
		"| the same, lane S ÷ tuned ReverseProxy | 0.65 | **0.50** |",
		"| CPU per request, GET, 1 MiB: tqserver, lane R ÷ nginx | 1 | **1.20** | 1.20 to 1.20 | **falls short** |",
		"(save) ÷ quiet | 1.50 | **1** |",
		"| 150 ns | **120.50 ns** |  | holds |",
		"| the same | 0 allocations | **0 allocations** |  | holds |",
		"caddy is not installed. To have it: `go install x`",
		"| **tqserver, lane R** | 20.0 | 3.0 | 1.0 |",
		"| **tqserver, lane R** | 24.0 | 24.0 to 48.0 | **1.20** |",
		"| **tqserver, lane R** | 1024 | 60.0 MiB | 200.0 MiB | 10.0 KiB |",
		"| Forward/GET-1KiB | fast | 25.1 | 0.02 | 30 |",
		"Left out, because their maximum is below 1.25 times this rate: Caddy.",
		"- one problem\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not have\n%s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	for _, name := range []string{"cpu.svg", "latency-1.svg", "reload.svg"} {
		if !strings.Contains(text, "]("+name+")") {
			t.Errorf("the report does not show %s", name)
		}
		wellFormed(t, name, files[name])
	}
	if len(files) != 4 {
		t.Errorf("%d files", len(files))
	}
}

// TestNothingMeasured: a part that was not run leaves no trace but in the goals.
func TestNothingMeasured(t *testing.T) {
	r := newResults(options{})
	files := r.files()
	if text := files["results.md"]; strings.Count(text, "not measured") != 3 || strings.Contains(text, "## Memory") {
		t.Error(text)
	}
	if _, err := json.Marshal(r); err != nil || len(files) != 1 {
		t.Errorf("%d files, %v", len(files), err)
	}
}
