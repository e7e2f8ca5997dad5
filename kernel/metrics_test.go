package kernel

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tqserver/tqserver/kernel/control"
	"github.com/tqserver/tqserver/kernel/proxy"
	"github.com/tqserver/tqserver/sdk"
)

var (
	metricRow = regexp.MustCompile("(?m)^\\| `(tqserver_[a-z_]+)` \\| (counter|gauge|histogram) \\| ([^|]*) \\| (.*) \\|$")
	faultRow  = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([0-9]{3}|-) \\| (.*?) \\| (?:`([a-z_.]+)`|-) \\|$")
)

// TestMetricsDocument holds the table in docs/metrics.md to the catalog, with the labels that the series have.
func TestMetricsDocument(t *testing.T) {
	k := testKernel(t)
	testPage(t, k, "index")
	worker := control.Worker{ID: "index#1", State: serving}
	all := k.collect(control.Status{Pages: []control.Page{{Name: "index", State: serving, Workers: []control.Worker{worker}}}})
	c := newCollection()
	c.traffic("index", proxy.Traffic{Faults: map[string]uint64{"dial": 1}})
	c.stages([]control.Stage{{Stage: "builder", Plugin: "p"}})
	(&front{}).measure(c)
	c.fast(proxy.LaneStats{HandedOver: map[string]uint64{"upgrade": 1}})
	var got, want []string
	for i, m := range all {
		s := append(m.Series, c.all[i].Series...)
		if len(s) == 0 {
			t.Errorf("%s never has a value", m.Name)
			continue
		}
		var names []string
		for name := range s[0].Labels {
			names = append(names, "`"+name+"`")
		}
		slices.Sort(names)
		got = append(got, fmt.Sprintln(m.Name, m.Type, strings.Join(names, ", "), m.Help))
	}
	for _, row := range metricRow.FindAllStringSubmatch(readDoc(t, "metrics.md"), -1) {
		want = append(want, fmt.Sprintln(row[1], row[2], row[3], row[4]))
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("row %d: the program has\n%vthe document has\n%v", i+1, got[min(i, len(got)):], want[min(i, len(want)):])
		}
	}
}

// TestFaultsDocument holds the table of faults in docs/timeouts.md to the program.
func TestFaultsDocument(t *testing.T) {
	var got, want []string
	for _, k := range proxy.FaultKinds() {
		got = append(got, fmt.Sprintln(k.Name, k.Status, k.Means, k.Key))
	}
	for _, row := range faultRow.FindAllStringSubmatch(readDoc(t, "timeouts.md"), -1) {
		want = append(want, fmt.Sprintln(row[1], strings.Replace(row[2], "-", "0", 1), row[3], row[4]))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the program has\n%v\nthe document has\n%v", got, want)
	}
}

func readDoc(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestMetricsOfWhatIsGone: a page that is removed leaves no series.
func TestMetricsOfWhatIsGone(t *testing.T) {
	k := testKernel(t)
	ctx, cancel := context.WithCancel(t.Context())
	p := newPage(ctx, k, sdk.Route{Page: "brief", Path: "/brief"})
	k.routes.pages["brief"] = p
	if n := seriesOf(k, "brief"); n < 10 {
		t.Errorf("%d series", n)
	}
	delete(k.routes.pages, "brief")
	cancel()
	p.takeDown()
	if n := seriesOf(k, "brief"); n != 0 {
		t.Errorf("%d series are left", n)
	}
}

func seriesOf(k *Kernel, page string) (n int) {
	var s control.Status
	for _, p := range k.routes.list() {
		s.Pages = append(s.Pages, p.status())
	}
	for _, m := range k.collect(s) {
		for _, s := range m.Series {
			if s.Labels["page"] == page {
				n++
			}
		}
	}
	return n
}

func TestStagesOfTheSameNameAreToldApart(t *testing.T) {
	c := newCollection()
	c.stages([]control.Stage{{Stage: "builder", Plugin: "p", State: "idle"}, {Stage: "builder", Plugin: "p", State: "backoff", Restarts: 2}})
	m := c.all[c.at["tqserver_stage_running"]].Series
	if len(m) != 2 || m[0].Labels["plugin"] != "p" || m[0].Value != 1 || m[1].Labels["plugin"] != "p#2" || m[1].Value != 0 {
		t.Errorf("got %+v", m)
	}
}

func TestHistogramAddsUp(t *testing.T) {
	h := histogram(proxy.Histogram{Buckets: []proxy.Bucket{{Most: 2_500_000, Count: 3}, {Most: 1e9, Count: 0}, {Count: 2}}, Sum: 1.5e9})
	want := []control.Bucket{{LE: "0.0025", Count: 3}, {LE: "1", Count: 3}, {LE: "+Inf", Count: 5}}
	if !slices.Equal(h.Buckets, want) || h.Sum != 1.5 {
		t.Errorf("got %+v", h)
	}
}
