package watcher

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/sdk"
)

// Poll is the watcher that compares size, time and inode of all files again and again, for where no file events arrive.
// It is Fsnotify without the events, and keeps the same promises.
type Poll struct{ watcher *Fsnotify }

var (
	_ sdk.Watcher = (*Poll)(nil)
	_ sdk.Logs    = (*Poll)(nil)
)

// PollConfig is the `config:` block of watcher/poll.
type PollConfig struct {
	Interval int `tq:"interval_ms,default=500,min=10" doc:"time between two polls; longer in big trees, so that they take no more than a tenth of a core"`
	Debounce int `tq:"debounce_ms,default=-1,min=-1" doc:"a burst of changes ends when nothing happened for so long; -1: file_watcher.debounce_ms"`
}

// NewPoll makes a watcher with the default configuration. It starts nothing.
func NewPoll() *Poll {
	p := &Poll{watcher: NewFsnotify()}
	p.watcher.config = PollConfig{Interval: 500, Debounce: -1}.polling()
	return p
}

// ServePoll runs the watcher as a plugin.
func ServePoll() {
	p := NewPoll()
	sdk.Serve("poll", sdk.Version, p, sdk.Config(p.Configure))
}

// SetLogger implements sdk.Logs.
func (p *Poll) SetLogger(log hclog.Logger) { p.watcher.SetLogger(log) }

// Configure sets the configuration, also of a watch under way, which then looks at everything again.
func (p *Poll) Configure(ctx context.Context, c PollConfig) error {
	return p.watcher.Configure(ctx, c.polling())
}

// Watch implements sdk.Watcher, by the contract of [Fsnotify.Watch].
func (p *Poll) Watch(ctx context.Context, sets <-chan sdk.WatchSet, report func(sdk.ChangeSet) error) error {
	return p.watcher.Watch(ctx, sets, report)
}

func (c PollConfig) polling() Config {
	return Config{Mode: "poll", Poll: c.Interval, Debounce: c.Debounce}
}
