package proto

import (
	"context"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

// golden is the protocol as it was released. See its README for when, and how, it is written anew.
const golden = "golden/protocol.textproto"

var release = flag.Bool("release", false, "make the protocol as it is the one that may not be broken")

func TestProtocolIsNotBroken(t *testing.T) {
	now := compileAll(t, nil)
	if *release {
		text, err := prototext.MarshalOptions{Multiline: true}.Marshal(now)
		if err != nil {
			t.Fatal(err)
		}
		// The encoder varies its spaces on purpose, so that nobody relies on them.
		text = []byte(strings.ReplaceAll(string(text), ":  ", ": "))
		if err := os.WriteFile(golden, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, found := range breaking(readGolden(t), now) {
		t.Errorf("%s: plugins that were built before would fail: add a new field, rpc or package version instead; golden/README.md says more", found)
	}
}

func readGolden(t *testing.T) *descriptorpb.FileDescriptorSet {
	t.Helper()
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := prototext.Unmarshal(text, &set); err != nil {
		t.Fatalf("%s: %v", golden, err)
	}
	return &set
}

// compileAll gives the descriptors of the .proto files, without comments. edit changes the text of one of them.
func compileAll(t *testing.T, edit func(name, text string) string) *descriptorpb.FileDescriptorSet {
	t.Helper()
	files := protoFiles(t)
	texts := map[string]string{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(text)
		if edit != nil {
			texts[name] = edit(name, string(text))
		}
	}
	compiler := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(texts)})}
	compiled, err := compiler.Compile(context.Background(), files...)
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	for _, f := range compiled {
		d := protodesc.ToFileDescriptorProto(f)
		d.SourceCodeInfo = nil
		set.File = append(set.File, d)
	}
	return set
}

// edited is the protocol with one text of one stage's file in the place of another.
func edited(t *testing.T, stage, from, to string) *descriptorpb.FileDescriptorSet {
	t.Helper()
	changed := false
	set := compileAll(t, func(name, text string) string {
		if name != "tqserver/"+stage+"/v1/"+stage+".proto" {
			return text
		}
		changed = strings.Contains(text, from)
		return strings.ReplaceAll(text, from, to)
	})
	if !changed {
		t.Fatalf("%q is not in the file of %s", from, stage)
	}
	return set
}

func TestBreaksAreFound(t *testing.T) {
	now := compileAll(t, nil)
	for _, c := range []struct{ name, stage, from, to, want string }{
		{"field removed", "resolver", "  string host = 1;", "  reserved 1;", "message Route field 1 (host): was removed"},
		{"number given away", "resolver", "  string host = 1;", "", "field 1 (host): its number is not reserved"},
		{"field renumbered", "resolver", "string host = 1;", "string host = 9;", "field 1 (host): has the number 9 now"},
		{"number reused", "resolver", "string host = 1;", "string name = 1;", "field 1 (host): name was host, is name"},
		{"field retyped", "resolver", "uint64 revision = 2; // rises", "int64 revision = 2; // rises", "field 2 (revision): type was TYPE_UINT64, is TYPE_INT64"},
		{"message exchanged", "resolver", "  Table table = 1;", "  Tree table = 1;", "field 1 (table): type name was .tqserver.plugin.resolver.v1.Table"},
		{"label", "resolver", "  repeated Route routes = 4;", "  Route routes = 4;", "field 4 (routes): label was LABEL_REPEATED"},
		{"presence", "resolver", "  string error = 2; ", "  optional string error = 2; ", "field 2 (error): presence was false, is true"},
		{"out of its oneof", "resolver", "    Ack ack = 2;\n  }", "  }\n  Ack ack = 2;", "field 2 (ack): oneof was kind"},
		{"message renamed", "rotator", "WriteResponse", "WriteAnswer", "message WriteResponse: was removed or renamed"},
		{"rpc removed", "lifecycle", "  rpc Drain(DrainRequest) returns (DrainResponse);", "", "service Lifecycle rpc Drain: was removed or renamed"},
		{"service renamed", "rotator", "service Rotator", "service Sink", "service Rotator: was removed or renamed"},
		{"streaming", "resolver", "returns (stream ResolveResponse)", "returns (ResolveResponse)", "rpc Resolve: streaming of responses was true"},
		{"request streaming", "builder", "Build(BuildRequest)", "Build(stream BuildRequest)", "rpc Build: streaming of requests was false"},
		{"request", "lifecycle", "Drain(DrainRequest)", "Drain(ShutdownRequest)", "rpc Drain: request was"},
		{"value removed", "lifecycle", "  FIELD_TYPE_NUMBER = 4;\n", "", "value FIELD_TYPE_NUMBER: was removed or renamed"},
		{"value renumbered", "lifecycle", "FIELD_TYPE_NUMBER = 4;", "FIELD_TYPE_NUMBER = 44;", "value FIELD_TYPE_NUMBER: number was 4, is 44"},
		{"value's number reused", "lifecycle", "FIELD_TYPE_NUMBER = 4;", "FIELD_TYPE_OTHER = 4; FIELD_TYPE_NUMBER = 44;", "value 4 (FIELD_TYPE_NUMBER) is called FIELD_TYPE_OTHER now"},
		{"package", "rotator", "package tqserver.plugin.rotator.v1;", "package tqserver.plugin.rotator.v2;", "package was tqserver.plugin.rotator.v1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := breaking(now, edited(t, c.stage, c.from, c.to))
			if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, c.want) }) {
				t.Errorf("found %q, want %q", found, c.want)
			}
		})
	}
}

func TestRemovedFileAndUnreservedNumbersAreBreaks(t *testing.T) {
	now := compileAll(t, nil)
	less := proto.Clone(now).(*descriptorpb.FileDescriptorSet)
	less.File = less.File[1:]
	if found := breaking(now, less); len(found) != 1 || !strings.Contains(found[0], "was removed or renamed") {
		t.Errorf("without a file: %q", found)
	}
	reserved := edited(t, "resolver", "  string root = 1;", "  reserved 8, 9;\n  string root = 1;")
	taken := edited(t, "resolver", "  string root = 1;", "  string root = 1;\n  string other = 9;")
	found := strings.Join(breaking(reserved, taken), "\n")
	for _, want := range []string{"field other takes the reserved number 9", "numbers 8 to 8 are reserved no more"} {
		if !strings.Contains(found, want) {
			t.Errorf("found %q, want %q", found, want)
		}
	}
}

func TestAdditionsAreNoBreaks(t *testing.T) {
	now := compileAll(t, nil)
	for _, c := range [][3]string{
		{"resolver", "  string host = 1;", "  string host = 1;\n  repeated string methods = 6;"},
		{"resolver", "    Ack ack = 2;", "    Ack ack = 2;\n    string note = 3;"},
		{"lifecycle", "  rpc Drain(", "  rpc Pause(DrainRequest) returns (DrainResponse);\n  rpc Drain("},
		{"lifecycle", "  FIELD_TYPE_NUMBER = 4;", "  FIELD_TYPE_NUMBER = 4;\n  FIELD_TYPE_NUMBERS = 6;"},
		{"rotator", "service Rotator {", "message Other {}\nservice Another {}\nservice Rotator {"},
	} {
		if found := breaking(now, edited(t, c[0], c[1], c[2])); len(found) > 0 {
			t.Errorf("%s: %q", c[2], found)
		}
	}
}
