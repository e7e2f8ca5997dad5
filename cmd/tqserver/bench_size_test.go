//go:build linux && bench

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// benchSize measures what a save costs in a page of many files, and in a package that many pages share.
func benchSize(t *testing.T, r *results) {
	rows := [][]string{{"files of the page", "saves", "save→live", "floor: compile and link", "÷ floor", "its middle half"}}
	for _, files := range []int{10, 100, 500} {
		rows = append(rows, benchFiles(t, files))
	}
	r.table("A page of many files, one of them saved", rows...)
	rows = [][]string{{"pages that import the package", "saves", "save → all live", "a page", "÷ one page alone"}}
	alone := time.Duration(0)
	for _, c := range []struct{ pages, saves int }{{1, 9}, {10, 5}, {100, 2}} {
		took := median(benchShared(t, c.pages, c.saves))
		one := took / time.Duration(c.pages)
		if c.pages == 1 {
			alone = one
		}
		rows = append(rows, []string{fmt.Sprint(c.pages), fmt.Sprint(c.saves), ms(took), ms(one), "**" + ratio(one, alone) + "**"})
	}
	r.table("A package that pages share, saved", rows...)
}

// benchFiles saves one file of a page of many, in turns with the floor of the same page.
func benchFiles(t *testing.T, files int) []string {
	const saves = 9
	more := moreFiles(files - 1)
	f := newFloor(t, plainPage, more)
	l := &live{site: newSite(t, withPage(plainPage("warm up"), more)), source: plainPage}
	l.startReal()
	defer l.stop()
	l.asker = newAsker(t, l.url("/"))
	l.save("warmer")
	l.forget()
	for n := range saves {
		text := fmt.Sprint("save ", n)
		if n%2 == 0 {
			f.save(text)
		}
		l.save(text)
		time.Sleep(rest)
		if n%2 != 0 {
			f.save(text)
		}
	}
	low, high := middleHalf(l.total, f.took)
	return []string{fmt.Sprint(files), fmt.Sprint(saves), ms(median(l.total)), ms(median(f.took)),
		"**" + ratio(median(l.total), median(f.took)) + "**", fmt.Sprintf("%.2f to %.2f", low, high)}
}

// moreFiles are files of a page of some fifty lines each, as they are written by hand.
func moreFiles(n int) map[string]string {
	files := map[string]string{}
	for i := range n {
		var b strings.Builder
		fmt.Fprintf(&b, "package main\n\nimport \"net/http\"\n\nfunc init() { http.HandleFunc(\"/%d\", serve%d) }\n\ntype thing%d struct {\n\tname string\n\tn int\n}\n", i, i, i)
		for k := range 5 {
			fmt.Fprintf(&b, "\nfunc (t *thing%d) step%d(w http.ResponseWriter) {\n\tfor i := range t.n {\n\t\tif i%%%d == 0 {\n\t\t\tw.Header().Add(t.name, \"step\")\n\t\t}\n\t\tt.n += i * %d\n\t}\n}\n", i, k, k+2, k+1)
		}
		fmt.Fprintf(&b, "\nfunc serve%d(w http.ResponseWriter, r *http.Request) {\n\tt := &thing%d{r.URL.Path, len(r.Host)}\n", i, i)
		for k := range 5 {
			fmt.Fprintf(&b, "\tt.step%d(w)\n", k)
		}
		b.WriteString("}\n")
		files[fmt.Sprintf("pages/index/file%03d.go", i)] = b.String()
	}
	return files
}

// benchShared saves a package that all pages of a site import, and waits until all of them answer with what it says.
func benchShared(t *testing.T, pages, saves int) (took []time.Duration) {
	const shared = "internal/shared/shared.go"
	source := func(text string) string { return fmt.Sprintf("package shared\n\nconst Text = %q\n", text) }
	files := map[string]string{shared: source("warm up")}
	page := strings.Replace(plainPage("x"), `"x"`, "shared.Text", 1)
	page = strings.Replace(page, "\t\"os\"\n", "\t\"os\"\n\n\t\"site/internal/shared\"\n", 1)
	for i := range pages {
		files[fmt.Sprintf("pages/p%d/main.go", i)] = page + fmt.Sprintf("\n// Page %d.\n", i) // else they would be one release
	}
	s := newSite(t, files)
	s.pool = freeRange(t, 3*pages+20)
	s.configure("", "", "")
	s.startReal()
	defer s.stop()
	all := &live{site: s}
	all.asker = newAsker(t, "")
	all.untilAll(pages, "warm up")
	time.Sleep(rest)
	all.saveShared(shared, source("warmer"), pages, "warmer")
	for n := range saves {
		time.Sleep(rest)
		text := fmt.Sprint("save ", n)
		took = append(took, all.saveShared(shared, source(text), pages, text))
	}
	return took
}

func (l *live) saveShared(file, content string, pages int, text string) time.Duration {
	l.t.Helper()
	start := time.Now()
	l.write(file, content)
	l.untilAll(pages, text)
	return time.Since(start)
}

// untilAll asks each page until it answers with a text.
func (l *live) untilAll(pages int, text string) {
	l.t.Helper()
	for i := range pages { // what is live already answers at the first time
		l.target = l.url(fmt.Sprint("/p", i))
		l.until(text, askEvery)
	}
}
