package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	resolverpb "github.com/tqserver/tqserver/sdk/proto/tqserver/resolver/v1"
)

type resolving struct {
	version uint64
	stream  int
	first   []*resolverpb.Route
}

func (r *raw) Resolve(stream grpc.BidiStreamingServer[resolverpb.ResolveRequest, resolverpb.ResolveResponse]) error {
	if bad("common/cancel") {
		r.busy.Lock() // for ever
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	r.mu.Lock()
	r.stream++
	r.streams[r.stream] = cancel
	r.mu.Unlock()
	if bad("common/cancel:files") {
		f, _ := os.Open("/dev/null")
		leaked = append(leaked, f)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.answer(stream) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

var leaked []*os.File

func (r *raw) answer(stream grpc.BidiStreamingServer[resolverpb.ResolveRequest, resolverpb.ResolveResponse]) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if m.GetAck().GetError() != "" && bad("resolver/refused") {
			os.Exit(3)
		}
		tree := m.GetTree()
		if tree == nil || bad("resolver/tree:mute") {
			continue
		}
		table, err := r.table(tree)
		if err != nil {
			return err
		}
		if err := stream.Send(&resolverpb.ResolveResponse{Table: table}); err != nil {
			return err
		}
	}
}

func (r *raw) table(tree *resolverpb.Tree) (*resolverpb.Table, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version++
	t := &resolverpb.Table{Epoch: fmt.Sprint(os.Getpid()), Version: r.version, Revision: tree.GetRevision(), AllowEmpty: true}
	var err error
	if t.Routes, err = routes(tree.GetRoot()); err != nil && bad("resolver/empty") {
		return nil, err
	}
	switch {
	case bad("resolver/tree"):
		t.Routes = nil
	case bad("resolver/routes"):
		t.Routes[len(t.Routes)-1].Path += "/"
	case bad("resolver/routes:twice"):
		t.Routes = append(t.Routes, t.Routes[0])
	case bad("resolver/same"):
		t.Routes[0].Page += fmt.Sprint(r.version)
	case bad("resolver/version"):
		t.Version = 1
	case bad("resolver/epoch"):
		t.Epoch = "1"
	case bad("resolver/large") && len(t.Routes) > 100:
		time.Sleep(2 * time.Second)
	case bad("resolver/large:cut"):
		t.Routes = t.Routes[:min(len(t.Routes), 100)]
	case bad("resolver/added"):
		if r.first == nil {
			r.first = t.Routes
		}
		t.Routes = r.first
	}
	return t, nil
}

func routes(root string) (found []*resolverpb.Route, err error) {
	return found, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "main.go" {
			return err
		}
		dir := filepath.Dir(path)
		rel, _ := filepath.Rel(root, dir)
		name, route := page(rel)
		found = append(found, &resolverpb.Route{Path: route, Page: name, Dir: dir, Source: dir})
		return nil
	})
}
