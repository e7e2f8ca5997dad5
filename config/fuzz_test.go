package config

import (
	"errors"
	"testing"
)

func FuzzParse(f *testing.F) {
	f.Add(DefaultYAML)
	for _, file := range []string{
		"everything.good", "spec.good", "unknown-keys.bad", "wrong-types.bad", "ranges.bad", "aliases.bad",
		"duplicate-keys.bad", "complex-key.bad", "tab.bad", "open-quote.bad", "several-documents.bad", "not-utf8.bad",
	} {
		f.Add(readFile(f, "testdata/"+file+".yaml"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f.yaml", data)
		if err == nil {
			usable(t, c)
			return
		}
		var errs Errors
		if !errors.As(err, &errs) || len(errs) == 0 || c != nil {
			t.Fatalf("Parse gives %v and a %T, want nil and Errors", c, err)
		}
		for i, e := range errs {
			if e.File != "f.yaml" || e.Line < 1 || e.Column < 1 || e.Message == "" {
				t.Errorf("error %d has no place or no words: %#v", i, e)
			}
			if i > 0 && e.Line < errs[i-1].Line {
				t.Errorf("error %d is out of order: %v", i, e)
			}
		}
	})
}

// usable holds what the rest of the program relies on.
func usable(t *testing.T, c *Config) {
	w := c.Workers
	if c.Server.Port < 1 || w.PortRangeStart > w.PortRangeEnd || w.PortRangeStart < 1 || w.PortRangeEnd > 65535 {
		t.Errorf("ports: %d, %d to %d", c.Server.Port, w.PortRangeStart, w.PortRangeEnd)
	}
	if w.ReadyTimeout <= 0 || w.DrainTimeout < 0 || c.Plugins.RPCTimeout <= 0 || c.Server.ReadTimeout < 0 {
		t.Errorf("durations: %+v", c)
	}
	if c.Pages.Directory == "" || w.TempDir == "" || len(c.Plugins.Builder) == 0 || c.Plugins.Resolver.Use == "" {
		t.Errorf("empty: %+v", c)
	}
	for _, o := range w.Paths {
		if got := w.For(o.Path); got.GoMaxProcs < 0 || got.MaxRequests < 0 {
			t.Errorf("%s: %+v", o.Path, got)
		}
	}
}
