//go:build linux && bench

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const (
	editRounds = 21
	editPause  = 300 * time.Millisecond // between two edits: what an earlier one leaves is over
	askOften   = time.Millisecond
)

// renderedPage renders a template that it does not embed.
const renderedPage = `package main

import (
	"log"
	"net/http"

	"github.com/tqserver/tqserver/sdk/worker"
	"github.com/tqserver/tqserver/sdk/worker/templates"
)

func main() {
	runtime, err := worker.NewRuntime()
	if err != nil {
		log.Fatal(err)
	}
	pages, err := templates.New(runtime, templates.Dir("templates"))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { pages.Render(w, "index.html", nil) })
	if err := runtime.StartServer(nil); err != nil {
		log.Fatal(err)
	}
}
`

// benchEdit measures what goes live without a build, and what of one is seen before its end.
func benchEdit(t *testing.T, r *results) {
	rows := [][]string{{"what", "median", "slowest", "goal"}}
	add := func(what string, took []time.Duration, goal time.Duration) {
		rows = append(rows, []string{what, "**" + ms(median(took)) + "**", ms(quantile(took, 1)), "≤ " + ms(goal)})
	}
	add("template saved → its new content", benchTemplate(t), 20*time.Millisecond)
	for _, c := range []struct{ name, workers string }{{"its worker kept warm", ""}, {"its worker started", "keep_warm_ms: 0"}} {
		live, told := benchRollback(t, c.workers)
		add("`tqserver rollback` → the release before answers, "+c.name, live, 50*time.Millisecond)
		add("the same by the server's own clock (`took_ms`)", told, 50*time.Millisecond)
	}
	add("edit undone → the release of before answers, its worker started", benchUndo(t), 50*time.Millisecond)
	told, seen := benchFault(t)
	add("save that does not compile → browsers told of it", told, 150*time.Millisecond)
	if seen != nil {
		add("the same → seen in Chromium, over the page", seen, 150*time.Millisecond)
	}
	r.table(fmt.Sprintf("Without waiting for a build, %d rounds", editRounds), rows...)
}

// each makes all edits of a benchmark: f gives how long one took.
func each(f func(n int) time.Duration) (took []time.Duration) {
	for n := range editRounds {
		time.Sleep(editPause)
		took = append(took, f(n))
	}
	return took
}

func benchTemplate(t *testing.T) []time.Duration {
	const file = "pages/index/templates/index.html"
	l := &live{site: newSite(t, map[string]string{savedPage: renderedPage, file: "as it was"})}
	l.startReal()
	defer l.stop()
	l.asker = newAsker(t, l.url("/"))
	l.until("as it was", askOften)
	worker := l.servingPID("index")
	took := each(func(n int) time.Duration {
		text := fmt.Sprint("edit ", n)
		start := time.Now()
		l.write(file, text)
		l.until(text, askOften)
		return time.Since(start)
	})
	if now := l.servingPID("index"); now != worker {
		t.Errorf("the worker was replaced: pid %d, before %d", now, worker)
	}
	return took
}

// twoReleases is a site of which "one" and "two" are built; "two" serves.
func twoReleases(t *testing.T, workers string) *live {
	l := &live{site: newSite(t, map[string]string{savedPage: plainPage("one")}), source: plainPage}
	l.configure("", workers, "")
	l.startReal()
	l.asker = newAsker(t, l.url("/"))
	l.save("two")
	return l
}

// benchRollback goes back and forth between two releases, by the command line.
func benchRollback(t *testing.T, workers string) (live, told []time.Duration) {
	l := twoReleases(t, workers)
	defer l.stop()
	path, err := filepath.Abs(binaryUnderTest)
	if err != nil {
		t.Fatal(err)
	}
	live = each(func(n int) time.Duration {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		start := time.Now()
		ended := make(chan error, 1)
		var out []byte
		go func() {
			var err error
			out, err = exec.CommandContext(ctx, path, "-C", l.dir, "rollback", "index", "--json").Output()
			ended <- err
		}()
		l.until([]string{"one", "two"}[n%2], askOften)
		took := time.Since(start)
		if err := <-ended; err != nil {
			t.Fatalf("rollback: %v\n%s", err, out)
		}
		var answer struct {
			TookMS float64 `json:"took_ms"`
		}
		if err := json.Unmarshal(out, &answer); err != nil || answer.TookMS <= 0 {
			t.Fatalf("rollback said %s: %v", out, err)
		}
		told = append(told, time.Duration(answer.TookMS*float64(time.Millisecond)))
		return took
	})
	return live, told
}

// benchUndo saves what was built before.
func benchUndo(t *testing.T) []time.Duration {
	l := twoReleases(t, "keep_warm_ms: 0")
	defer l.stop()
	return each(func(n int) time.Duration {
		text := []string{"one", "two"}[n%2]
		start := time.Now()
		l.write(savedPage, l.source(text))
		l.until(text, askOften)
		return time.Since(start)
	})
}
