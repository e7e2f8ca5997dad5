// Package proto holds the wire protocol between the kernel and its plugins: one package for each stage and one for
// the lifecycle that all share, as .proto files under tqserver/ with the Go code made from them beside them.
//
// For another language, point its compiler at this directory: `protoc -I sdk/proto …`. The Go code is made anew with
// `make generate`; a test fails when it is not current.
package proto
