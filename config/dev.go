package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Dev configures `tqserver dev`; nothing else reads it.
type Dev struct {
	// Editor is a name that [EditorLink] knows, or a link of its form.
	Editor string
	// Wait is how long opening a page waits for a build of it that is under
	// way; 0 is not at all.
	Wait time.Duration
}

// editors are the links that open a file in an editor.
var editors = map[string]string{
	"vscode":   "vscode://file{file}:{line}:{column}",
	"vscodium": "vscodium://file{file}:{line}:{column}",
	"cursor":   "cursor://file{file}:{line}:{column}",
	"windsurf": "windsurf://file{file}:{line}:{column}",
	"zed":      "zed://file{file}:{line}:{column}",
	"goland":   "goland://open?file={file}&line={line}&column={column}",
	"idea":     "idea://open?file={file}&line={line}&column={column}",
	"sublime":  "subl://open?url=file://{file}&line={line}&column={column}",
	"textmate": "txmt://open?url=file://{file}&line={line}&column={column}",
	"none":     "",
}

// EditorLink gives the link that opens a file in an editor, with {file},
// {line} and {column} in it, for the name of an editor or for such a link
// itself; "" for none.
func EditorLink(editor string) (link string, err error) {
	if message, hint := checkEditor(editor); message != "" {
		return "", fmt.Errorf("%s: %s", message, hint)
	}
	if link, ok := editors[editor]; ok {
		return link, nil
	}
	return editor, nil
}

var linkScheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*$`)

func checkEditor(editor string) (message, hint string) {
	if _, ok := editors[editor]; ok {
		return "", ""
	}
	scheme, _, isLink := strings.Cut(editor, ":")
	isLink = isLink && linkScheme.MatchString(scheme)
	names := slices.Sorted(maps.Keys(editors))
	switch {
	case isLink && slices.Contains([]string{"javascript", "data", "vbscript", "blob"}, strings.ToLower(scheme)):
		return fmt.Sprintf("%s runs in the page and opens no editor", clip(editor)), "write a link with a scheme that the editor has registered"
	case isLink && strings.Contains(editor, "{file}"):
		return "", ""
	case isLink:
		return fmt.Sprintf("%s does not say where the file goes", clip(editor)), "write {file} there, and {line} and {column}"
	}
	hint = "one of " + strings.Join(names, ", ") + ", or a link with {file}, {line} and {column}"
	if near := Nearest(editor, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return fmt.Sprintf("unknown editor %s", clip(editor)), hint
}
