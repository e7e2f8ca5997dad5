package config

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// mostInstances bounds the workers of one page: more is a slip of the finger.
const mostInstances = 1000

// Instances is how many workers serve a page: from Min to Max, by its load.
// Where the two are the same the number is fixed. Min is 1 or more.
type Instances struct{ Min, Max int }

// Automatic tells whether the number follows the load.
func (i Instances) Automatic() bool { return i.Min < i.Max }

// Clamp gives the number of workers nearest to n that is allowed.
func (i Instances) Clamp(n int) int { return max(i.Min, min(n, i.Max)) }

func (i Instances) String() string {
	if i.Automatic() {
		return fmt.Sprintf("%d-%d", i.Min, i.Max)
	}
	return strconv.Itoa(i.Min)
}

// auto is from one worker to as many as there are processors, two at least.
func auto() Instances { return Instances{1, max(2, runtime.NumCPU())} }

// instances reads a number, two of them with a dash between, or auto.
func instances(p *Instances) setter {
	return func(d *decoder, n *yaml.Node) {
		if n.Kind == yaml.ScalarNode && n.ShortTag() == strTag {
			switch {
			case n.Value == "auto":
				*p = auto()
			case d.check(n, checkInstances):
				p.Min, p.Max, _ = cutRange(n.Value)
			}
			return
		}
		if v, ok := d.integer(n, 1, mostInstances); ok {
			*p = Instances{int(v), int(v)}
		}
	}
}

func cutRange(s string) (least, most int, ok bool) {
	low, high, _ := strings.Cut(s, "-")
	least, err1 := strconv.Atoi(low)
	most, err2 := strconv.Atoi(high)
	return least, most, err1 == nil && err2 == nil
}

func checkInstances(s string) (message, hint string) {
	const example = "write one number, such as 2, the least and the most, such as 1-4, or auto"
	least, most, ok := cutRange(s)
	switch _, err := strconv.Atoi(s); {
	case err == nil:
		return "must be a number, not a text", "remove the quotes"
	case !ok || strings.ContainsAny(s, "+ "):
		return fmt.Sprintf("%s is no number of workers", clip(s)), example
	case least < 1 || most > mostInstances:
		return fmt.Sprintf("must be from 1 to %d, not %s", mostInstances, cut(s)), ""
	case least > most:
		return fmt.Sprintf("the least, %d, is above the most, %d", least, most), example
	}
	return "", ""
}
