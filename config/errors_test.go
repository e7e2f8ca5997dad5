package config

import (
	"errors"
	"io"
	"testing"
)

func TestNearest(t *testing.T) {
	known := []string{"host", "port", "read_timeout_seconds", "write_timeout_seconds", "log_file", "log_level", "debounce_ms"}
	tests := []struct{ name, want string }{
		{"prot", "port"},
		{"ports", "port"},
		{"Port", "port"},
		{"hosst", "host"},
		{"readTimeoutSeconds", "read_timeout_seconds"},
		{"read-timeout-seconds", "read_timeout_seconds"},
		{"read_timeout", "read_timeout_seconds"},
		{"write_timout_second", "write_timeout_seconds"},
		{"logfile", "log_file"},
		{"debounce", "debounce_ms"},
		{"pages", ""},
		{"x", ""},
		{"", ""},
		{"_", ""},
		{"debounce_in_milliseconds", ""},
		{"de", ""},
		{"port_to_listen_on", "port"},
	}
	for _, test := range tests {
		if got := Nearest(test.name, known); got != test.want {
			t.Errorf("Nearest(%q) is %q, want %q", test.name, got, test.want)
		}
	}
}

func TestPositionString(t *testing.T) {
	for want, p := range map[string]Position{
		"f.yaml:3:5":            {"f.yaml", 3, 5},
		"3:5":                   {"", 3, 5},
		"f.yaml":                {"f.yaml", 0, 0},
		"default configuration": {},
	} {
		if got := p.String(); got != want {
			t.Errorf("%#v is %q, want %q", p, got, want)
		}
	}
}

func TestErrorsUnwrap(t *testing.T) {
	second := &Error{Position: Position{"f", 2, 1}, Key: "b", Message: "worse", cause: io.EOF}
	err := error(Errors{{Position: Position{"f", 1, 1}, Key: "a", Message: "bad", Hint: "fix it"}, second})
	if want := "f:1:1: a: bad (fix it)\nf:2:1: b: worse"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	var one *Error
	if !errors.As(err, &one) || one.Key != "a" {
		t.Errorf("errors.As gives %v, want the first", one)
	}
	if !errors.Is(err, io.EOF) {
		t.Error("the cause of the second is not found")
	}
}
