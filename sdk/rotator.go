package sdk

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	rotatorpb "github.com/tqserver/tqserver/sdk/proto/tqserver/rotator/v1"
)

// Batch is some lines of one stream.
type Batch struct {
	Seq     uint64 // rises
	Stream  string // "server", or the name of a page
	File    string // template of the file's path, absolute; {date} is the line's own day, {path} the page
	Page    string // "" for the server
	Release string // of the worker that wrote the lines
	Worker  string // its ID
	Lines   []Line
	Dropped uint64 // lines of this stream that were lost before this batch
}

// Line is one line of a log.
type Line struct {
	Time   time.Time
	Source Source
	Text   []byte // without the newline
}

// Source is where a line comes from.
type Source int

// The sources.
const (
	Kernel Source = iota + 1
	Stdout
	Stderr
)

func (s Source) String() string {
	return [...]string{"unknown", "kernel", "stdout", "stderr"}[min(max(s, 0), Stderr)]
}

// NewRotator speaks to the rotator of a plugin.
func NewRotator(conn grpc.ClientConnInterface) Rotator {
	return rotatorClient{rotatorpb.NewRotatorClient(conn)}
}

type rotatorClient struct{ rpc rotatorpb.RotatorClient }

func (c rotatorClient) Write(ctx context.Context, b Batch) error {
	all := make([]rotatorpb.Line, len(b.Lines)) // in one piece: a busy server sends hundreds at a time
	lines := make([]*rotatorpb.Line, len(b.Lines))
	for i, l := range b.Lines {
		lines[i] = &all[i]
		lines[i].TimeUnixNano, lines[i].Source, lines[i].Text = l.Time.UnixNano(), rotatorpb.Source(l.Source), l.Text
	}
	ack, err := c.rpc.Write(ctx, &rotatorpb.WriteRequest{Batch: &rotatorpb.Batch{Seq: b.Seq, Stream: b.Stream, File: b.File,
		Page: b.Page, Release: b.Release, Worker: b.Worker, Lines: lines, Dropped: b.Dropped}})
	switch {
	case err != nil:
		return err
	case ack.GetSeq() != b.Seq:
		return fmt.Errorf("sdk: rotator acknowledged batch %d, sent was %d", ack.GetSeq(), b.Seq)
	case ack.GetError() != "":
		return fmt.Errorf("store log lines: %s", ack.GetError())
	}
	return nil
}

type rotatorServer struct {
	rotatorpb.UnimplementedRotatorServer
	impl Rotator
}

func (s *rotatorServer) Write(ctx context.Context, req *rotatorpb.WriteRequest) (*rotatorpb.WriteResponse, error) {
	b := req.GetBatch()
	err := s.impl.Write(ctx, Batch{Seq: b.GetSeq(), Stream: b.GetStream(), File: b.GetFile(), Page: b.GetPage(),
		Release: b.GetRelease(), Worker: b.GetWorker(), Dropped: b.GetDropped(),
		Lines: each(b.GetLines(), func(l *rotatorpb.Line) Line {
			return Line{Time: time.Unix(0, l.GetTimeUnixNano()), Source: Source(l.GetSource()), Text: l.GetText()}
		})})
	ack := &rotatorpb.WriteResponse{Seq: b.GetSeq()}
	if err != nil {
		ack.Error = text(err.Error())
	}
	return ack, nil
}
