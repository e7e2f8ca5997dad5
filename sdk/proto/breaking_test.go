package proto

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/descriptorpb"
)

// breaking lists what of the old protocol a plugin or a kernel that was built with it would miss in the new one. What
// was added is no break.
func breaking(old, fresh *descriptorpb.FileDescriptorSet) []string {
	c := &comparison{}
	compareBy(c, "file", old.File, fresh.File, (*descriptorpb.FileDescriptorProto).GetName, c.file)
	return c.found
}

type comparison struct {
	at    []string
	found []string
}

func (c *comparison) add(format string, args ...any) {
	c.found = append(c.found, strings.Join(c.at, " ")+": "+fmt.Sprintf(format, args...))
}

// same adds a finding when something has another value.
func same[T comparable](c *comparison, what string, old, fresh T) {
	if old != fresh {
		c.add("%s was %v, is %v", what, old, fresh)
	}
}

// compareBy compares elements of the same name; one that is missing is a finding.
func compareBy[E any](c *comparison, kind string, old, fresh []E, name func(E) string, compare func(old, fresh E)) {
	for _, o := range old {
		c.at = append(c.at, kind+" "+name(o))
		if i := slices.IndexFunc(fresh, func(f E) bool { return name(f) == name(o) }); i < 0 {
			c.add("was removed or renamed")
		} else {
			compare(o, fresh[i])
		}
		c.at = c.at[:len(c.at)-1]
	}
}

func (c *comparison) file(old, fresh *descriptorpb.FileDescriptorProto) {
	same(c, "package", old.GetPackage(), fresh.GetPackage())
	same(c, "syntax", old.GetSyntax(), fresh.GetSyntax())
	compareBy(c, "message", old.MessageType, fresh.MessageType, (*descriptorpb.DescriptorProto).GetName, c.message)
	compareBy(c, "enum", old.EnumType, fresh.EnumType, (*descriptorpb.EnumDescriptorProto).GetName, c.enum)
	compareBy(c, "service", old.Service, fresh.Service, (*descriptorpb.ServiceDescriptorProto).GetName, c.service)
}

func (c *comparison) service(old, fresh *descriptorpb.ServiceDescriptorProto) {
	compareBy(c, "rpc", old.Method, fresh.Method, (*descriptorpb.MethodDescriptorProto).GetName, func(o, f *descriptorpb.MethodDescriptorProto) {
		same(c, "request", o.GetInputType(), f.GetInputType())
		same(c, "response", o.GetOutputType(), f.GetOutputType())
		same(c, "streaming of requests", o.GetClientStreaming(), f.GetClientStreaming())
		same(c, "streaming of responses", o.GetServerStreaming(), f.GetServerStreaming())
	})
}

func (c *comparison) message(old, fresh *descriptorpb.DescriptorProto) {
	compareBy(c, "message", old.NestedType, fresh.NestedType, (*descriptorpb.DescriptorProto).GetName, c.message)
	compareBy(c, "enum", old.EnumType, fresh.EnumType, (*descriptorpb.EnumDescriptorProto).GetName, c.enum)
	for _, o := range old.Field {
		c.at = append(c.at, fmt.Sprintf("field %d (%s)", o.GetNumber(), o.GetName()))
		c.field(o, old, fresh)
		c.at = c.at[:len(c.at)-1]
	}
	for _, r := range old.ReservedRange {
		for _, f := range fresh.Field {
			if f.GetNumber() >= r.GetStart() && f.GetNumber() < r.GetEnd() {
				c.add("field %s takes the reserved number %d", f.GetName(), f.GetNumber())
			}
		}
		if !slices.ContainsFunc(fresh.ReservedRange, func(f *descriptorpb.DescriptorProto_ReservedRange) bool {
			return f.GetStart() <= r.GetStart() && f.GetEnd() >= r.GetEnd()
		}) {
			c.add("numbers %d to %d are reserved no more", r.GetStart(), r.GetEnd()-1)
		}
	}
}

// field compares by number, which is what is on the wire. A field that was removed is a break in any case.
func (c *comparison) field(old *descriptorpb.FieldDescriptorProto, in, now *descriptorpb.DescriptorProto) {
	i := slices.IndexFunc(now.Field, func(f *descriptorpb.FieldDescriptorProto) bool { return f.GetNumber() == old.GetNumber() })
	if i < 0 {
		if j := slices.IndexFunc(now.Field, func(f *descriptorpb.FieldDescriptorProto) bool { return f.GetName() == old.GetName() }); j >= 0 {
			c.add("has the number %d now", now.Field[j].GetNumber())
			return
		}
		c.add("was removed")
		if !slices.ContainsFunc(now.ReservedRange, func(r *descriptorpb.DescriptorProto_ReservedRange) bool {
			return r.GetStart() <= old.GetNumber() && old.GetNumber() < r.GetEnd()
		}) {
			c.add("its number is not reserved")
		}
		return
	}
	f := now.Field[i]
	same(c, "name", old.GetName(), f.GetName())
	same(c, "type", old.GetType(), f.GetType())
	same(c, "type name", old.GetTypeName(), f.GetTypeName())
	same(c, "label", old.GetLabel(), f.GetLabel())
	same(c, "presence", old.GetProto3Optional(), f.GetProto3Optional())
	same(c, "oneof", oneof(in, old), oneof(now, f))
}

// oneof names the group that a field is in; that of an optional field is made up by the compiler.
func oneof(m *descriptorpb.DescriptorProto, f *descriptorpb.FieldDescriptorProto) string {
	if f.OneofIndex == nil || f.GetProto3Optional() {
		return ""
	}
	return m.OneofDecl[f.GetOneofIndex()].GetName()
}

func (c *comparison) enum(old, fresh *descriptorpb.EnumDescriptorProto) {
	compareBy(c, "value", old.Value, fresh.Value, (*descriptorpb.EnumValueDescriptorProto).GetName, func(o, f *descriptorpb.EnumValueDescriptorProto) {
		same(c, "number", o.GetNumber(), f.GetNumber())
	})
	for _, o := range old.Value {
		for _, f := range fresh.Value {
			if f.GetNumber() == o.GetNumber() && f.GetName() != o.GetName() {
				c.add("value %d (%s) is called %s now", o.GetNumber(), o.GetName(), f.GetName())
			}
		}
	}
}
