// Package sdk is what a plugin author needs: the interfaces of the five stages, and Serve, which runs an
// implementation of them as a plugin of tqserver.
//
//	func main() { sdk.Serve("cron", "1.0.0", &watcher{}) }
//
// The kernel talks to a plugin through the same interfaces: NewResolver, NewBuilder, … make one from a connection.
// The wire protocol below them is in sdk/proto, for plugins in other languages.
//
// All methods that take a context end promptly when it ends, with its error or nil. A stage that reports or pushes
// does so from any goroutine; the callback blocks until the kernel took the value and is not to be called after the
// method returned. An implementation keeps nothing that it could not get from the kernel again: after a restart the
// kernel sends everything anew.
package sdk

import "context"

// A Resolver turns a tree of pages into a route table.
type Resolver interface {
	// Resolve pushes a whole table for the newest tree each time one arrives, and whenever else it likes. It sets
	// Routes, Diagnostics, AllowEmpty and Revision; Epoch and Version are set on the way. An error from push says
	// why the kernel refused the table (a *RefusedError: the last good one stays in force) or that the connection
	// is gone.
	Resolve(ctx context.Context, trees <-chan Tree, push func(Table) error) error
}

// A Builder turns the source of a page into a release.
type Builder interface {
	// Build runs one job and may be called many times at once. A fault of the source is a Result with OK false; an
	// error is a fault of the builder itself, after which the kernel tries again. When ctx ends, every process that
	// the job started is gone before Build returns. event may be called from one goroutine at a time.
	Build(ctx context.Context, job Job, event func(Event)) (Result, error)
}

// A Watcher reports changed files.
type Watcher interface {
	// Watch compares, for each set that arrives, the files with what the set says is known, reports the difference
	// (also an empty one, with Rescan true), and from then on each burst of changes. A new set replaces the one before.
	Watch(ctx context.Context, sets <-chan WatchSet, report func(ChangeSet) error) error
}

// A Checker probes workers.
type Checker interface {
	// Check probes the targets of the newest set, and reports the first state of each target and every change of it.
	Check(ctx context.Context, sets <-chan TargetSet, report func(Health) error) error
}

// A Rotator stores log lines.
type Rotator interface {
	// Write stores one batch. It is called for one batch at a time, in order. Nil acknowledges the batch: it must be
	// in the hands of the operating system by then. After an error the kernel sends the same batch again later.
	Write(ctx context.Context, batch Batch) error
}
