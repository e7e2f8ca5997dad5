package sdk

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	resolverpb "github.com/tqserver/tqserver/sdk/proto/tqserver/resolver/v1"
)

// Tree is what a resolver turns into a table.
type Tree struct {
	Root     string // absolute path of the pages directory
	Revision uint64 // rises with each tree
}

// Table is a whole route table.
type Table struct {
	Epoch       string // unique for each start of the plugin
	Version     uint64 // rises within an epoch
	Revision    uint64 // of the tree that it answers
	Routes      []Route
	Diagnostics []Diagnostic // of the tree: shown to the user, the table still counts
	AllowEmpty  bool         // a table without routes is meant, not a fault
}

// Route is the place of one page.
type Route struct {
	Host   string // lower case, without port; "": every host
	Path   string // canonical: starts with "/", no trailing "/" except the root, no "//", ".", "..", "\\" or NUL
	Page   string // name, e.g. "api/users"; routes of the same page differ in nothing but the host
	Dir    string // absolute path of the page's directory
	Source string // absolute path of the directory to build: Dir or one below it
}

// Check gives the first reason for which the kernel refuses a table, whatever table came before:
//
//   - it has no routes, and AllowEmpty is not set;
//   - a Page is empty or not a clean relative path;
//   - a Path is not canonical;
//   - a Host is not in lower case, or has a port, brackets or a dot at its end;
//   - a Dir is not absolute, or a Source is neither Dir nor below it;
//   - two routes have one Host and Path;
//   - routes of one page differ in more than the Host.
func (t Table) Check() error {
	if len(t.Routes) == 0 && !t.AllowEmpty {
		return errors.New("it has no routes")
	}
	pages, places := map[string]Route{}, map[string]string{}
	for _, r := range t.Routes {
		if err := r.check(); err != nil {
			return err
		}
		place := r.Host + r.Path
		if other, ok := places[place]; ok {
			return fmt.Errorf("route %s is claimed by pages %s and %s", place, other, r.Page)
		}
		places[place] = r.Page
		first, more := pages[r.Page]
		if first.Host = r.Host; more && first != r {
			return fmt.Errorf("page %s is there twice, with different paths or directories", r.Page)
		}
		pages[r.Page] = r
	}
	return nil
}

func (r Route) check() error {
	switch {
	case r.Page == "" || path.Clean("/"+r.Page) != "/"+r.Page:
		return fmt.Errorf("page name %q is not a clean relative path", r.Page)
	case r.Path == "" || r.Path[0] != '/' || path.Clean(r.Path) != r.Path || strings.ContainsAny(r.Path, "\\\x00"):
		return fmt.Errorf("route %q of page %s is not canonical", r.Path, r.Page)
	case r.Host != strings.ToLower(r.Host) || strings.ContainsAny(r.Host, ":/ []") || strings.HasSuffix(r.Host, "."):
		return fmt.Errorf("host %q of page %s is not a host name in lower case without a port", r.Host, r.Page)
	case !filepath.IsAbs(r.Dir) || !filepath.IsAbs(r.Source):
		return fmt.Errorf("directories %q and %q of page %s are not absolute", r.Dir, r.Source, r.Page)
	}
	if rel, err := filepath.Rel(r.Dir, r.Source); err != nil || !filepath.IsLocal(rel) {
		return fmt.Errorf("source %s of page %s is not its directory %s, nor below", r.Source, r.Page, r.Dir)
	}
	return nil
}

// RefusedError says why the kernel did not take a table.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "sdk: table refused: " + e.Reason }

// NewResolver speaks to the resolver of a plugin. The error of push is sent to the plugin as the reason for refusing.
func NewResolver(conn grpc.ClientConnInterface) Resolver {
	return resolverClient{resolverpb.NewResolverClient(conn)}
}

type resolverClient struct{ rpc resolverpb.ResolverClient }

func (c resolverClient) Resolve(ctx context.Context, trees <-chan Tree, push func(Table) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Resolve(ctx)
	if err != nil {
		return err
	}
	out := sender[*resolverpb.ResolveRequest]{send: stream.Send}
	sendTree := func(t Tree) error {
		return out.Send(&resolverpb.ResolveRequest{Kind: &resolverpb.ResolveRequest_Tree{
			Tree: &resolverpb.Tree{Root: t.Root, Revision: t.Revision}}})
	}
	take := func(m *resolverpb.ResolveResponse) error {
		ack := &resolverpb.Ack{Version: m.GetTable().GetVersion()}
		if err := push(tableFromProto(m.GetTable())); err != nil {
			ack.Error = text(err.Error())
		}
		return out.Send(&resolverpb.ResolveRequest{Kind: &resolverpb.ResolveRequest_Ack{Ack: ack}})
	}
	return duplex(cancel,
		func() error { return forward(ctx, trees, sendTree) },
		func() error { return receive(stream.Recv, take) })
}

type resolverServer struct {
	resolverpb.UnimplementedResolverServer
	impl    Resolver
	epoch   string
	version atomic.Uint64
}

func (s *resolverServer) Resolve(stream grpc.BidiStreamingServer[resolverpb.ResolveRequest, resolverpb.ResolveResponse]) error {
	session := &resolveSession{server: s, trees: newLatest[Tree](), acks: map[uint64]chan string{},
		out: sender[*resolverpb.ResolveResponse]{send: stream.Send}}
	recv := func() error { return receive(stream.Recv, session.take) }
	return serveStream(stream.Context(), recv, func(ctx context.Context) error {
		return s.impl.Resolve(ctx, session.trees, func(t Table) error { return session.push(ctx, t) })
	})
}

// resolveSession is one stream: trees in, tables out, acks matched to the tables that wait for them.
type resolveSession struct {
	server *resolverServer
	trees  latest[Tree]
	out    sender[*resolverpb.ResolveResponse]
	mu     sync.Mutex
	acks   map[uint64]chan string
}

func (s *resolveSession) take(m *resolverpb.ResolveRequest) error {
	switch k := m.GetKind().(type) {
	case *resolverpb.ResolveRequest_Tree:
		s.trees.put(Tree{Root: k.Tree.GetRoot(), Revision: k.Tree.GetRevision()})
	case *resolverpb.ResolveRequest_Ack:
		s.mu.Lock()
		defer s.mu.Unlock()
		if ack, ok := s.acks[k.Ack.GetVersion()]; ok {
			ack <- k.Ack.GetError()
			delete(s.acks, k.Ack.GetVersion())
		}
	}
	return nil
}

func (s *resolveSession) push(ctx context.Context, t Table) error {
	t.Epoch, t.Version = s.server.epoch, s.server.version.Add(1)
	ack := make(chan string, 1)
	s.mu.Lock()
	s.acks[t.Version] = ack
	s.mu.Unlock()
	if err := s.out.Send(&resolverpb.ResolveResponse{Table: tableToProto(t)}); err != nil {
		return fmt.Errorf("push table: %w", err)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case reason := <-ack:
		if reason != "" {
			return &RefusedError{reason}
		}
		return nil
	}
}

func tableToProto(t Table) *resolverpb.Table {
	return &resolverpb.Table{Epoch: t.Epoch, Version: t.Version, Revision: t.Revision,
		Diagnostics: each(t.Diagnostics, diagnosticToProto), AllowEmpty: t.AllowEmpty,
		Routes: each(t.Routes, func(r Route) *resolverpb.Route {
			return &resolverpb.Route{Host: r.Host, Path: r.Path, Page: r.Page, Dir: r.Dir, Source: r.Source}
		})}
}

func tableFromProto(t *resolverpb.Table) Table {
	return Table{Epoch: t.GetEpoch(), Version: t.GetVersion(), Revision: t.GetRevision(),
		Diagnostics: each(t.GetDiagnostics(), diagnosticFromProto), AllowEmpty: t.GetAllowEmpty(),
		Routes: each(t.GetRoutes(), func(r *resolverpb.Route) Route {
			return Route{Host: r.GetHost(), Path: r.GetPath(), Page: r.GetPage(), Dir: r.GetDir(), Source: r.GetSource()}
		})}
}
