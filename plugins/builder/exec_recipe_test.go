package builder

import (
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

func TestRecipe(t *testing.T) {
	for text, want := range map[string]recipe{
		"run: [node, server.mjs]": {run: command{{"node", "run[0]", 1, 7}, {"server.mjs", "run[1]", 1, 13}}},
		"build: [make]\nrun: [x]\nrequires:\n  - make\nfiles: ['*.c']\nenv: {A: 1, B: yes, C: ''}": {
			build: []command{{{"make", "build[0]", 1, 9}}}, run: command{{"x", "run[0]", 2, 7}}, requires: []word{{"make", "requires[0]", 4, 5}},
			files: []string{"*.c"}, env: map[string]string{"A": "1", "B": "yes", "C": ""}},
		"build:\n- [a, 1]\n- [b]\nrun: [./x]\nenv:\n": {
			build: []command{{{"a", "build[0][0]", 2, 4}, {"1", "build[0][1]", 2, 7}}, {{"b", "build[1][0]", 3, 4}}},
			run:   command{{"./x", "run[0]", 4, 7}}, env: map[string]string{}},
		"build: []\nrun: [x]": {run: command{{"x", "run[0]", 2, 7}}},
		"build:\nrun: [x]":    {run: command{{"x", "run[0]", 2, 7}}},
	} {
		got, found := readRecipe("/p/page.yaml", []byte(text))
		if len(found) > 0 || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s\ngives %+v, %v\nwant  %+v", text, got, found, want)
		}
	}
}

func TestRecipeFaults(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "1:1: run: is missing: write the command that serves the page, such as run: [node, server.mjs]",
		"# soon":                     "1:1: run: is missing",
		"env: {}":                    "1:1: run: is missing",
		"[run]":                      `1:1: must be "key: value" lines, not a list`,
		"rum: [x]":                   `1:1: unknown key "rum" (did you mean "run"?)`,
		"comand: [x]\nrequired: [y]": "1:1: unknown key \"comand\" (known are: build, run, requires, files, env)\n2:1: unknown key \"required\" (did you mean \"requires\"?)",
		"builds: [x]":                `1:1: unknown key "builds" (did you mean "build"?)`,
		"run: node server.mjs":       `1:6: run: must be a list of words, not "node server.mjs": write [node, server.mjs]`,
		"run: []":                    "1:6: run: must have at least one word, the program",
		"run: ['', x]":               "1:7: run[0]: the name of the program is empty",
		"run:":                       "1:5: run: must be a list of words, not nothing",
		"run: [x, {y: z}, ~]":        "1:10: run[1]: must be text, not a mapping\n1:18: run[2]: must be text, not nothing",
		"run: [x]\nrun: [y]":         "2:1: run: is given twice, first in line 1: keep one",
		"run: [\"a\\0\"]":            "1:7: run[0]: must not have a zero byte",
		"run: &a [x]\nbuild: *a":     "2:8: build: must be a list of words, not an alias: write the value out",
		"run: [x]\nbuild: make":      "2:8: build: must be a list of words, not \"make\": write [make]",
		"run: [x]\nbuild: [a, [b]]":  `2:9: build[0]: must be a list of words, not "a": write [a]`,
		"run: [x]\nbuild: [[]]":      "2:9: build[0]: must have at least one word, the program",
		"run: [x]\nrequires: node":   `2:11: requires: must be a list of words, not "node": write [node]`,
		"run: [x]\nrequires: [./a]":  `2:12: requires[0]: must be the name of a program, or an absolute path, not "./a"`,
		"run: [x]\nfiles: ['[']":     `2:9: files[0]: "[" is no pattern`,
		"run: [x]\nfiles: [/a, ../b, ./c]": "2:9: files[0]: \"/a\" must be a path in the directory of the page, without . and ..\n" +
			"2:13: files[1]: \"../b\" must be a path in the directory of the page, without . and ..\n2:19: files[2]: \"./c\" must be",
		"run: [x]\nenv: {A-B: x}":         "2:7: env.A-B: is no name of a variable",
		"run: [x]\nenv: {TQ_PORT: 1}":     "2:7: env.TQ_PORT: names that begin with TQ_ are set by the server",
		"run: [x]\nenv: {A: ~, B: [c]}":   "2:10: env.A: has no value: to pass on a variable of the server, name it in workers.default.env of the configuration\n2:16: env.B: must be text, not a list",
		"run: [x]\nenv: [A]":              "2:6: env: must be \"key: value\" lines, not a list",
		"run: [x]\n---\nrun: [y]":         `2:1: a second document starts here: a page.yaml is one; remove the "---"`,
		"run: [x]\n\tbuild: [y]":          "2: read YAML: found character that cannot start any token: check the indentation and the quotes here",
		"run: [x\nenv: {":                 "",
		"run: [x]\nbuild: [\"unclosed]\n": "",
	} {
		_, found := readRecipe("/p/page.yaml", []byte(text))
		var lines []string
		for _, d := range found {
			lines = append(lines, strings.TrimPrefix(d.String(), "/p/page.yaml:"))
		}
		if got := strings.Join(lines, "\n"); got == "" || !strings.HasPrefix(got, want) {
			t.Errorf("%q gives\n%s\nwant\n%s", text, got, want)
		}
	}
}

// FuzzRecipe reads anything without a panic, and says what is wrong unless there is a command.
func FuzzRecipe(f *testing.F) {
	for _, seed := range []string{"run: [x]", "build: [[a], [b]]\nrun: [x]\nenv: {A: b}", "{", "- a", "*a", "run: &a [*a]", "? [x]\n: y", "\xff", "run: !!binary x", "<<: {run: [x]}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, found := readRecipe("/p/page.yaml", []byte(text))
		if len(found) == 0 && (r == nil || len(r.run) == 0 || r.run[0].text == "") {
			t.Errorf("%q: %+v without a finding", text, r)
		}
	})
}

// FuzzQuote has the shell give back every word as it is.
func FuzzQuote(f *testing.F) {
	for _, seed := range []string{"", "a b", "it's", `"`, "$HOME", "`id`", "$(id)", "\\", "a\nb", "~", "*", "$TQ", "-n", "é\xff", "!x", "$", "${TQ_", "$TQ_port"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, word string) {
		if strings.ContainsRune(word, 0) || variable.MatchString(word) {
			t.Skip()
		}
		if got := shellWord(t, word); got != word {
			t.Errorf("%q comes back as %q: %s", word, got, quote(word))
		}
	})
}

func TestQuoteFillsInVariables(t *testing.T) {
	for word, want := range map[string]string{
		"$TQ_PORT": "9000", "127.0.0.1:${TQ_PORT}": "127.0.0.1:9000", "$TQ_PORT$TQ_ROUTE/x": "9000/a b/x", "PORT=$TQ_PORT": "PORT=9000",
		"$HOME:$TQ_PORT's": "$HOME:9000's", "$TQ_MISSING": "", "$$TQ_PORT": "$9000", "${TQ_PORTER": "${TQ_PORTER",
	} {
		if got := shellWord(t, word); got != want {
			t.Errorf("%q is filled in as %q, want %q: %s", word, got, want, quote(word))
		}
	}
}

// shellWord gives what the shell makes of a quoted word.
func shellWord(t *testing.T, word string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), shell, "-c", "printf %s. "+quote(word))
	cmd.Env = []string{"TQ_PORT=9000", "TQ_ROUTE=/a b"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", quote(word), err, out)
	}
	return strings.TrimSuffix(string(out), ".")
}
