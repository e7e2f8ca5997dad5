package builder

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// commands is what `go build -n -a` says it would run.
type commands struct {
	compile map[string]toolCall // by import path, "main" for the page
	link    toolCall
	modinfo string // line of the linker's importcfg, "" if there is none
}

// toolCall is one call of the compiler or the linker.
type toolCall struct {
	env    []string
	args   []string // without the program
	dir    string   // that it runs in
	object string   // directory that the result is for, below $WORK
	embeds []byte   // content of its -embedcfg
}

var (
	hereFile   = regexp.MustCompile(`^cat >(\$WORK/b\d+)/(embedcfg|importcfg\.link) << 'EOF' # internal$`)
	assignment = regexp.MustCompile(`^([A-Z][A-Z0-9_]*)=(?:'([^']*)'|("(?:[^"\\]|\\.)*")) `)
	objectDir  = regexp.MustCompile(`^\$WORK/b\d+`)
)

// readCommands reads the output of `go build -n -a`. toolDir is the directory of the compiler and the linker.
func readCommands(text, toolDir string) (commands, error) {
	c := commands{compile: map[string]toolCall{}}
	embeds := map[string][]byte{}
	dir := ""
	for rest := text; rest != ""; {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		if m := hereFile.FindStringSubmatch(line); m != nil {
			var err error
			if m[2] == "embedcfg" {
				embeds[m[1]], rest, err = embedConfig(rest)
			} else {
				c.modinfo, rest, err = modinfoLine(rest)
			}
			if err != nil {
				return c, err
			}
			continue
		}
		if to, ok := strings.CutPrefix(line, "cd "); ok {
			dir = to
			continue
		}
		cmd, tool, err := readCommand(line, toolDir)
		if err != nil {
			return c, err
		}
		cmd.dir = dir
		switch at := slices.Index(cmd.args, "-p"); {
		case tool == "link":
			c.link = cmd
		case tool == "compile" && at >= 0 && at+1 < len(cmd.args):
			cmd.embeds = embeds[cmd.object]
			c.compile[cmd.args[at+1]] = cmd
		}
	}
	if len(c.link.args) == 0 || len(c.compile["main"].args) == 0 {
		return c, fmt.Errorf("no call of the compiler and the linker of %s", toolDir)
	}
	return c, nil
}

// embedConfig takes a JSON value from the beginning of text.
func embedConfig(text string) (config []byte, rest string, err error) {
	var value json.RawMessage
	d := json.NewDecoder(strings.NewReader(text))
	if err := d.Decode(&value); err != nil {
		return nil, "", fmt.Errorf("read the list of embedded files: %w", err)
	}
	return value, text[d.InputOffset():], nil
}

// modinfoLine takes a file up to its end from the beginning of text.
func modinfoLine(text string) (line, rest string, err error) {
	config, rest, ok := strings.Cut(text, "\nEOF\n")
	if !ok {
		return "", "", fmt.Errorf("the list of packages to link has no end")
	}
	for l := range strings.Lines(config + "\n") {
		if strings.HasPrefix(l, "modinfo ") {
			line = l
		} else if !strings.HasPrefix(l, "packagefile ") {
			return "", "", fmt.Errorf("the list of packages to link has the line %q", l)
		}
	}
	return line, rest, nil
}

// readCommand reads a line as the shell would, as far as the go command writes one. tool is "" for anything but a tool
// in toolDir.
func readCommand(line, toolDir string) (c toolCall, tool string, err error) {
	for m := assignment.FindStringSubmatch(line); m != nil; m = assignment.FindStringSubmatch(line) {
		value := m[2]
		if m[3] != "" {
			if value, err = strconv.Unquote(m[3]); err != nil {
				return c, "", fmt.Errorf("read %s: %w", m[1], err)
			}
		}
		c.env = append(c.env, m[1]+"="+value)
		line = line[len(m[0]):]
	}
	if !strings.HasPrefix(strings.TrimPrefix(line, `"`), toolDir) {
		return c, "", nil
	}
	words, err := splitWords(line)
	if err != nil {
		return c, "", err
	}
	if filepath.Dir(words[0]) != toolDir {
		return c, "", nil
	}
	c.args = words[1:]
	if at := slices.Index(c.args, "-o"); at >= 0 && at+1 < len(c.args) {
		c.object = objectDir.FindString(c.args[at+1])
	}
	return c, filepath.Base(words[0]), nil
}

// splitWords takes a line apart at spaces; a word in double quotes is in the syntax of Go.
func splitWords(line string) ([]string, error) {
	var words []string
	for rest := strings.TrimLeft(line, " "); rest != ""; rest = strings.TrimLeft(rest, " ") {
		word, after, _ := strings.Cut(rest, " ")
		if rest[0] == '"' {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return nil, fmt.Errorf("read the words of %q: %w", line, err)
			}
			if word, err = strconv.Unquote(quoted); err != nil {
				return nil, fmt.Errorf("read the words of %q: %w", line, err)
			}
			after = rest[len(quoted):]
		}
		words, rest = append(words, word), after
	}
	return words, nil
}

// takeFlags removes flags that have a value in the next word.
func takeFlags(args []string, names ...string) []string {
	var kept []string
	for i := 0; i < len(args); i++ {
		if slices.Contains(names, args[i]) {
			i++
			continue
		}
		kept = append(kept, args[i])
	}
	return kept
}

// compileFlags gives the flags of a compiler call without the files, those that name a file, and -c. They have trimDir
// for the directory of the result. An error means that the call is none that the lane can make.
func (c toolCall) compileFlags(files []string) ([]string, error) {
	args := takeFlags(c.args, "-o", "-buildid", "-importcfg", "-embedcfg")
	n := len(args) - len(files)
	if n < 0 {
		return nil, fmt.Errorf("compiles %d files, not %d", len(args), len(files))
	}
	for i, path := range files {
		if got := absolute(c.dir, args[n+i]); got != path {
			return nil, fmt.Errorf("compiles %s, not %s", got, path)
		}
	}
	var flags []string
	for i, word := range args[:n] {
		if i > 0 && args[i-1] == "-trimpath" {
			word = strings.ReplaceAll(word, c.object+"=>", trimDir+"=>")
		} else if strings.Contains(word, "$WORK") || !strings.HasPrefix(word, "-") && (i == 0 || !strings.HasPrefix(args[i-1], "-")) {
			return nil, fmt.Errorf("compiles with %q", word)
		}
		if !strings.HasPrefix(word, "-c=") {
			flags = append(flags, word)
		}
	}
	return flags, nil
}

// linkFlags gives the flags of the linker call without those that name a file or an ID.
func (c toolCall) linkFlags() ([]string, error) {
	args := takeFlags(c.args, "-o", "-importcfg")
	var flags []string
	for _, word := range args[:len(args)-1] {
		if strings.Contains(word, "$WORK") || word == "-B" || strings.HasPrefix(word, "-B=") {
			return nil, fmt.Errorf("links with %q", word)
		}
		if !strings.HasPrefix(word, "-buildid=") {
			flags = append(flags, word)
		}
	}
	return flags, nil
}
