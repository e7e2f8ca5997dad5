package config

import (
	"strings"
	"testing"
)

func TestEditorLink(t *testing.T) {
	for editor, want := range map[string]string{
		"vscode":              "vscode://file{file}:{line}:{column}",
		"none":                "",
		"my-ed:open?f={file}": "my-ed:open?f={file}",
	} {
		if link, err := EditorLink(editor); err != nil || link != want {
			t.Errorf("%s: %q, %v; want %q", editor, link, err, want)
		}
	}
	for editor, want := range map[string]string{
		"vscod":                      `did you mean "vscode"?`,
		"notepad":                    "one of ",
		"javascript:alert('{file}')": "runs in the page",
		" javascript:x{file}":        "unknown editor",
		"data:text/html,{file}":      "runs in the page",
		"my-ed:open":                 "write {file} there",
	} {
		if _, err := EditorLink(editor); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", editor, err, want)
		}
	}
	if _, err := Parse("x.yaml", []byte("dev: {editor: emax}\n")); err == nil || !strings.Contains(err.Error(), "x.yaml:1:15") {
		t.Errorf("a bad editor in a file: %v", err)
	}
}
