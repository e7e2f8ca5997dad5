package builder

import (
	"fmt"
	"regexp"
	"strings"
)

// shell runs launchers. They are handed to it, not executed: a file system for temporary files may forbid that.
const shell = "/bin/sh"

// launcher is the text of the shell script that a worker starts as: it goes to the files of the release and becomes the
// command, with the same process id. $TQ_PORT and the other variables of a worker that begin with TQ_ are filled in.
// content is the hash of the source, so that the hash of the script stands for both.
func launcher(page, content string, run []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "#!%s\n# Runs a release of the page %q, built from %s.\n# source: sha256 %s\n", shell, page, recipeName, content)
	fmt.Fprintf(&b, "cd \"${0%%/*}/%s\" || exit\nexec", filesName)
	for _, word := range run {
		b.WriteString(" " + quote(word))
	}
	b.WriteString("\n")
	return b.String()
}

var variable = regexp.MustCompile(`\$(TQ_[A-Z_]+|\{TQ_[A-Z_]+\})`)

// quote makes a word of the shell that is the text, but for the variables in it.
func quote(text string) string {
	var b strings.Builder
	for {
		at := variable.FindStringIndex(text)
		if at == nil {
			b.WriteString(literal(text))
			return b.String()
		}
		b.WriteString(literal(text[:at[0]]) + `"${` + strings.Trim(text[at[0]:at[1]], "${}") + `}"`)
		if text = text[at[1]:]; text == "" {
			return b.String()
		}
	}
}

func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
