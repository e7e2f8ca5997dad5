package builder

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// addMeta adds the files that tell which modules there are. gomod and gowork are as go env gives them.
func (p *plan) addMeta(source, gomod, gowork string) {
	root := ""
	if filepath.IsAbs(gomod) && gomod != os.DevNull {
		root = filepath.Dir(gomod)
	}
	for _, dir := range ancestors(source, root) {
		p.meta[filepath.Join(dir, "go.mod")] = true
	}
	p.addModule(root)
	if filepath.IsAbs(gowork) {
		p.addWorkspace(gowork)
	}
	if gowork == "" || within(source, filepath.Dir(gowork)) { // else GOWORK names it, or is off
		for _, dir := range ancestors(source, filepath.Dir(gowork)) {
			p.meta[filepath.Join(dir, "go.work")] = true
		}
	}
}

// addModule adds the files of the module in dir, and those of the modules by which it replaces others.
func (p *plan) addModule(dir string) {
	if dir == "" {
		return
	}
	for _, name := range []string{"go.mod", "go.sum", "vendor/modules.txt"} {
		p.meta[filepath.Join(dir, name)] = true
	}
	p.addReplaced(filepath.Join(dir, "go.mod"))
}

func (p *plan) addWorkspace(gowork string) {
	dir := filepath.Dir(gowork)
	p.meta[gowork], p.meta[gowork+".sum"], p.meta[filepath.Join(dir, "vendor/modules.txt")] = true, true, true
	p.addReplaced(gowork)
	for _, used := range usedModules(gowork) {
		p.addModule(used)
	}
}

// replacement finds the directory on the right-hand side of a replace line in go.mod or go.work.
var replacement = regexp.MustCompile(`(?m)=>\s*["` + "`" + `]?((?:\.{1,2}/|/|\.{1,2}$)[^\s"` + "`" + `]*)`)

func (p *plan) addReplaced(file string) {
	text, _ := os.ReadFile(file)
	for _, m := range replacement.FindAllSubmatch(text, -1) {
		p.meta[filepath.Join(absolute(filepath.Dir(file), string(m[1])), "go.mod")] = true
	}
}

// usedModules gives the directories in the use lines of a go.work.
func usedModules(gowork string) []string {
	text, _ := os.ReadFile(gowork)
	var dirs []string
	block := false
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "//")
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == ")":
			block = false
		case words[0] == "use" && len(words) > 1 && words[1] == "(":
			block = true
		case words[0] == "use" && len(words) > 1:
			dirs = append(dirs, absolute(filepath.Dir(gowork), strings.Trim(words[1], "\"`")))
		case block:
			dirs = append(dirs, absolute(filepath.Dir(gowork), strings.Trim(words[0], "\"`")))
		}
	}
	return dirs
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}
