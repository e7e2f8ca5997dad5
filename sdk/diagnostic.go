package sdk

import (
	"fmt"
	"strings"

	diagnosticpb "github.com/tqserver/tqserver/sdk/proto/tqserver/diagnostic/v1"
)

// Diagnostic is one thing that a user can act on: a compile error, two pages for one route, a wrong setting.
type Diagnostic struct {
	Warning bool   `json:"warning,omitempty"` // else it is an error
	Message string `json:"message"`
	File    string `json:"file,omitempty"`   // absolute path, "" where there is none
	Line    int    `json:"line,omitempty"`   // from 1; 0: unknown
	Column  int    `json:"column,omitempty"` // from 1, in bytes; 0: unknown
	Path    string `json:"path,omitempty"`   // of a setting: "config.cache.dir"
}

// String gives the usual form file:line:column: message, as far as the parts are known.
func (d Diagnostic) String() string {
	s := d.Message
	if d.Path != "" {
		s = d.Path + ": " + s
	}
	switch {
	case d.File == "":
		return s
	case d.Line == 0:
		return fmt.Sprintf("%s: %s", d.File, s)
	case d.Column == 0:
		return fmt.Sprintf("%s:%d: %s", d.File, d.Line, s)
	}
	return fmt.Sprintf("%s:%d:%d: %s", d.File, d.Line, d.Column, s)
}

func diagnosticToProto(d Diagnostic) *diagnosticpb.Diagnostic {
	severity := diagnosticpb.Severity_SEVERITY_ERROR
	if d.Warning {
		severity = diagnosticpb.Severity_SEVERITY_WARNING
	}
	return &diagnosticpb.Diagnostic{Severity: severity, Message: text(d.Message), File: text(d.File), Line: int32(d.Line),
		Column: int32(d.Column), Path: text(d.Path)}
}

// text makes a string fit to be sent, which is for people: protobuf refuses a whole message for one byte that is not
// UTF-8, and what a tool prints or a file is called can be anything.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func diagnosticFromProto(p *diagnosticpb.Diagnostic) Diagnostic {
	return Diagnostic{Warning: p.GetSeverity() == diagnosticpb.Severity_SEVERITY_WARNING, Message: p.GetMessage(),
		File: p.GetFile(), Line: int(p.GetLine()), Column: int(p.GetColumn()), Path: p.GetPath()}
}

// each converts a slice, element by element.
func each[A, B any](in []A, convert func(A) B) []B {
	if in == nil {
		return nil
	}
	out := make([]B, len(in))
	for i, v := range in {
		out[i] = convert(v)
	}
	return out
}
