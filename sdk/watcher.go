package sdk

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"

	watcherpb "github.com/tqserver/tqserver/sdk/proto/tqserver/watcher/v1"
)

// WatchSet is what to watch.
type WatchSet struct {
	Version  uint64            // rises
	Roots    []string          // absolute directories, watched with everything below; need not exist yet
	Dirs     []string          // absolute directories, watched without what is below
	Ignore   []string          // patterns (see Match) of what is not watched
	Debounce time.Duration     // a burst ends when nothing happened for so long
	Known    map[string]string // absolute path -> digest that the kernel acts on
}

// ChangeSet is a burst of changes, or the difference to what a set says is known.
type ChangeSet struct {
	Version uint64 // of the set
	Changes []Change
	Rescan  bool // the whole set was compared: the first one of a set, or events were lost
}

// Change is one changed file.
type Change struct {
	Path   string // absolute
	Op     Op
	Digest string // see FileDigest; "" when removed
}

// Op is what happened to a file.
type Op int

// The ops. Created: was not known. Modified: has another digest than known.
const (
	Created Op = iota + 1
	Modified
	Removed
)

func (o Op) String() string {
	return [...]string{"unknown", "created", "modified", "removed"}[min(max(o, 0), Removed)]
}

// NewWatcher speaks to the watcher of a plugin.
func NewWatcher(conn grpc.ClientConnInterface) Watcher {
	return watcherClient{watcherpb.NewWatcherClient(conn)}
}

type watcherClient struct{ rpc watcherpb.WatcherClient }

func (c watcherClient) Watch(ctx context.Context, sets <-chan WatchSet, report func(ChangeSet) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Watch(ctx)
	if err != nil {
		return err
	}
	out := sender[*watcherpb.WatchRequest]{send: stream.Send}
	var whole ChangeSet
	take := func(m *watcherpb.WatchResponse) error {
		whole.Version, whole.Rescan = m.GetChanges().GetVersion(), m.GetChanges().GetRescan()
		for _, c := range m.GetChanges().GetChanges() {
			whole.Changes = append(whole.Changes, Change{Path: c.GetPath(), Op: Op(c.GetOp()), Digest: c.GetDigest()})
		}
		if m.GetMore() {
			return nil
		}
		done := whole
		whole = ChangeSet{}
		return report(done)
	}
	return duplex(cancel,
		func() error {
			return forward(ctx, sets, func(s WatchSet) error { return out.Send(watchSetToProto(s)...) })
		},
		func() error { return receive(stream.Recv, take) })
}

type watcherServer struct {
	watcherpb.UnimplementedWatcherServer
	impl Watcher
}

func (s *watcherServer) Watch(stream grpc.BidiStreamingServer[watcherpb.WatchRequest, watcherpb.WatchResponse]) error {
	sets := newLatest[WatchSet]()
	out := sender[*watcherpb.WatchResponse]{send: stream.Send}
	var whole WatchSet
	take := func(m *watcherpb.WatchRequest) error {
		whole = joinWatchSet(whole, m.GetSet())
		if !m.GetMore() {
			sets.put(whole)
			whole = WatchSet{}
		}
		return nil
	}
	return serveStream(stream.Context(),
		func() error { return receive(stream.Recv, take) },
		func(ctx context.Context) error {
			return s.impl.Watch(ctx, sets, func(c ChangeSet) error { return out.Send(changeSetToProto(c)...) })
		})
}

// watchSetToProto gives one message, or more where there are many known files.
func watchSetToProto(s WatchSet) []*watcherpb.WatchRequest {
	var parts []*watcherpb.WatchRequest
	known := slices.Collect(maps.Keys(s.Known))
	for chunk := range slices.Chunk(known, partSize) {
		m := make(map[string]string, len(chunk))
		for _, path := range chunk {
			m[path] = s.Known[path]
		}
		parts = append(parts, &watcherpb.WatchRequest{Set: &watcherpb.WatchSet{Known: m}, More: true})
	}
	return append(parts, &watcherpb.WatchRequest{Set: &watcherpb.WatchSet{Version: s.Version, Roots: s.Roots, Dirs: s.Dirs,
		Ignore: s.Ignore, DebounceMs: s.Debounce.Milliseconds()}})
}

func joinWatchSet(s WatchSet, part *watcherpb.WatchSet) WatchSet {
	s.Version, s.Debounce = part.GetVersion(), time.Duration(part.GetDebounceMs())*time.Millisecond
	s.Roots = append(s.Roots, part.GetRoots()...)
	s.Dirs = append(s.Dirs, part.GetDirs()...)
	s.Ignore = append(s.Ignore, part.GetIgnore()...)
	if s.Known == nil {
		s.Known = map[string]string{}
	}
	maps.Copy(s.Known, part.GetKnown())
	return s
}

func changeSetToProto(c ChangeSet) []*watcherpb.WatchResponse {
	var parts []*watcherpb.WatchResponse
	for chunk := range slices.Chunk(c.Changes, partSize) {
		parts = append(parts, &watcherpb.WatchResponse{More: true, Changes: &watcherpb.ChangeSet{Version: c.Version, Rescan: c.Rescan,
			Changes: each(chunk, func(c Change) *watcherpb.Change {
				return &watcherpb.Change{Path: c.Path, Op: watcherpb.Op(c.Op), Digest: c.Digest}
			})}})
	}
	if parts == nil {
		parts = []*watcherpb.WatchResponse{{Changes: &watcherpb.ChangeSet{Version: c.Version, Rescan: c.Rescan}}}
	}
	parts[len(parts)-1].More = false
	return parts
}
