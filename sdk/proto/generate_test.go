package proto

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

var update = flag.Bool("update", false, "write the generated code instead of comparing it")

// TestGeneratedCodeIsCurrent makes the Go code from the .proto files and compares it with the committed one.
func TestGeneratedCodeIsCurrent(t *testing.T) {
	files := protoFiles(t)
	fresh := map[string]string{}
	for _, tool := range []string{"protoc-gen-go", "protoc-gen-go-grpc"} {
		for name, content := range generate(t, tool, files) {
			fresh[strings.TrimPrefix(name, "github.com/tqserver/tqserver/sdk/proto/")] = content
		}
	}
	for name, content := range fresh {
		if *update {
			if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		old, err := os.ReadFile(name)
		if err != nil || string(old) != content {
			t.Errorf("%s is not current (%v): run `make generate`", name, err)
		}
	}
	committed, _ := filepath.Glob("tqserver/*/v1/*.pb.go")
	for _, name := range committed {
		if _, ok := fresh[name]; !ok {
			t.Errorf("%s has no .proto file any more: remove it", name)
		}
	}
}

func protoFiles(t *testing.T) []string {
	files, err := filepath.Glob("tqserver/*/v1/*.proto")
	if err != nil || len(files) == 0 {
		t.Fatalf("no .proto files found: %v", err)
	}
	return files
}

// generate compiles the files without protoc and runs one of its plugins, pinned as a tool in go.mod, on them.
func generate(t *testing.T, tool string, files []string) map[string]string {
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	compiled, err := compiler.Compile(context.Background(), files...)
	if err != nil {
		t.Fatal(err)
	}
	req := &pluginpb.CodeGeneratorRequest{FileToGenerate: files}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		req.ProtoFile = append(req.ProtoFile, descriptor(f))
	}
	for _, f := range compiled {
		add(f)
	}
	in, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "tool", tool)
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("run %s: %v\n%s", tool, err, stderr.String())
	}
	var resp pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out.Bytes(), &resp); err != nil {
		t.Fatal(err)
	}
	if resp.Error != nil {
		t.Fatalf("%s: %s", tool, *resp.Error)
	}
	made := map[string]string{}
	for _, f := range resp.File {
		made[f.GetName()] = f.GetContent()
	}
	return made
}

// descriptor keeps the source info where the compiler has it: the comments of the .proto files go into the Go code.
func descriptor(f protoreflect.FileDescriptor) *descriptorpb.FileDescriptorProto {
	if r, ok := f.(interface {
		FileDescriptorProto() *descriptorpb.FileDescriptorProto
	}); ok {
		return r.FileDescriptorProto()
	}
	return protodesc.ToFileDescriptorProto(f)
}
