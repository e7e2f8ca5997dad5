//go:build linux

package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// bar is one row of a plot: a value with the range that it was seen in.
type bar struct {
	label          string
	value          float64
	low, high      float64
	series         int  // which colour: 0 or 1
	strong         bool // it is ours
	continuesGroup bool // it belongs to the row above
}

const (
	svgWidth   = 760
	svgLabel   = 210 // where bars begin
	svgValue   = 70  // room for the numbers
	svgBar     = 16
	svgRow     = 24
	svgTop     = 64
	svgBottom  = 34
	svgPattern = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="title">
<title id="title">%s</title>
<style>
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 15px; font-weight: 600; }
.note, .axis { fill: #57606a; }
.strong { font-weight: 600; }
.grid { stroke: #d0d7de; stroke-width: 1; }
.whisker { stroke: #24292f; stroke-width: 1.3; fill: none; }
.s0 { fill: #9aa5b1; } .s0.ours { fill: #2f81f7; }
.s1 { fill: #c9a26b; } .s1.ours { fill: #d9730d; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .note, .axis { fill: #9198a1; } .grid { stroke: #3d444d; } .whisker { stroke: #e6edf3; }
.s0 { fill: #656c76; } .s0.ours { fill: #4493f8; } .s1 { fill: #8a6d3b; } .s1.ours { fill: #f0883e; }
}
</style>
`
)

// barChart draws rows from the top down, as an SVG that reads well on light and on dark ground. legend names the two
// colours; without it there is one.
func barChart(title, note string, legend []string, bars []bar) string {
	height := svgTop + svgBottom
	for _, b := range bars {
		height += rowHeight(b)
	}
	top := 0.0
	for _, b := range bars {
		top = max(top, b.value, b.high)
	}
	step := niceStep(top)
	end := max(math.Ceil(top/step), 1) * step
	scale := (svgWidth - svgLabel - svgValue) / end

	var w strings.Builder
	fmt.Fprintf(&w, svgPattern, svgWidth, height, svgWidth, height, escaped(title))
	fmt.Fprintf(&w, "<text class=\"title\" x=\"8\" y=\"20\">%s</text>\n<text class=\"note\" x=\"8\" y=\"38\">%s</text>\n", escaped(title), escaped(note))
	drawLegend(&w, legend)
	for v := 0.0; v <= end+step/2; v += step {
		x := svgLabel + v*scale
		fmt.Fprintf(&w, "<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>\n", x, svgTop-6, x, height-svgBottom+2)
		fmt.Fprintf(&w, "<text class=\"axis\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", x, height-svgBottom+18, short(v))
	}
	y := svgTop
	for i, b := range bars {
		if i > 0 {
			y += rowHeight(b)
		}
		drawBar(&w, b, y, scale)
	}
	w.WriteString("</svg>\n")
	return w.String()
}

func rowHeight(b bar) int {
	if b.continuesGroup {
		return svgBar + 1
	}
	return svgRow
}

func drawLegend(w *strings.Builder, legend []string) {
	x := svgLabel
	for i, name := range legend {
		fmt.Fprintf(w, "<rect class=\"s%d\" x=\"%d\" y=\"45\" width=\"10\" height=\"10\"/><rect class=\"s%d ours\" x=\"%d\" y=\"45\" width=\"10\" height=\"10\"/>", i, x, i, x+11)
		fmt.Fprintf(w, "<text class=\"note\" x=\"%d\" y=\"54\">%s</text>\n", x+26, escaped(name))
		x += 40 + 7*len(name)
	}
}

func drawBar(w *strings.Builder, b bar, y int, scale float64) {
	class, weight := fmt.Sprintf("s%d", b.series), ""
	if b.strong {
		class, weight = class+" ours", " class=\"strong\""
	}
	if !b.continuesGroup {
		fmt.Fprintf(w, "<text%s x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", weight, svgLabel-8, y+12, escaped(b.label))
	}
	fmt.Fprintf(w, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n", class, svgLabel, y, b.value*scale, svgBar)
	end := svgLabel + max(b.value, b.high)*scale
	if b.high > b.low {
		low, high, mid := svgLabel+b.low*scale, svgLabel+b.high*scale, float64(y)+svgBar/2
		fmt.Fprintf(w, "<path class=\"whisker\" d=\"M%.1f %.1fH%.1fM%.1f %.1fv8M%.1f %.1fv8\"/>\n", low, mid, high, low, mid-4, high, mid-4)
	}
	fmt.Fprintf(w, "<text%s x=\"%.1f\" y=\"%d\">%s</text>\n", weight, end+6, y+12, short(b.value))
}

// niceStep is 1, 2 or 5 times a power of ten, so that about six of them reach v.
func niceStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v/6)))
	for _, m := range []float64{1, 2, 5} {
		if v/(m*power) <= 7 {
			return m * power
		}
	}
	return 10 * power
}

// short is a number with three digits at least.
func short(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 1:
		return fmt.Sprintf("%.2f", v)
	case v < 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	}
	return fmt.Sprintf("%.0f", v)
}

func escaped(s string) string {
	var w strings.Builder
	_ = xml.EscapeText(&w, []byte(s)) // a Builder has no errors
	return w.String()
}
