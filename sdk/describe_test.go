package sdk

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// printer writes a program that prints text and exits with code.
func printer(t *testing.T, text string, code string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plugin")
	script := "#!/bin/sh\ncat <<'END'\n" + text + "\nEND\necho last words >&2\nexit " + code + "\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDescribeReadsWhatAPluginPrints(t *testing.T) {
	p := newPlugin("test", "1.2.3", ResolverFunc[struct{}](nil), Exclusive(), Config(func(context.Context, struct {
		Root string `tq:"root,required" doc:"where"`
	}) error {
		return nil
	}))
	text, err := json.Marshal(p.describe())
	if err != nil {
		t.Fatal(err)
	}
	d, err := Describe(t.Context(), printer(t, string(text), "0"))
	if err != nil {
		t.Fatal(err)
	}
	if d.Name != "test" || d.Version != "1.2.3" || d.Protocol != 1 || d.Language != "go" || d.SDKVersion != Version ||
		!slices.Equal(d.Stages(), []string{"resolver"}) || !slices.Equal(d.Capabilities, []string{CapabilityLogLevel, CapabilityExclusive}) {
		t.Errorf("description: %+v", d)
	}
	if len(d.Schema) != 1 || d.Schema[0].Name != "root" || d.Schema[0].Type != "string" || !d.Schema[0].Required || d.Schema[0].Doc != "where" {
		t.Errorf("schema: %+v", d.Schema)
	}
}

func TestDescribeTellsWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ path, want string }{
		"no file":     {filepath.Join(t.TempDir(), "none"), "no such file"},
		"exit":        {printer(t, "", "3"), "exit status 3: last words"},
		"no JSON":     {printer(t, "usage: x", "0"), "prints one JSON object for --describe"},
		"two":         {printer(t, `{"name":"x","services":["y"]} {}`, "0"), "more than one"},
		"nameless":    {printer(t, `{"services":["y"]}`, "0"), `has no "name"`},
		"serviceless": {printer(t, `{"name":"x"}`, "0"), `has no "services"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Describe(t.Context(), c.path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}
