package watcher

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tqserver/tqserver/sdk"
)

// TestPoll: what changes is reported without an event, before and after a change of the configuration.
func TestPoll(t *testing.T) {
	root := site(t)
	p := NewPoll()
	p.SetLogger(hclog.New(&hclog.LoggerOptions{Output: t.Output(), Level: hclog.Debug}))
	p.watcher.open = func(*hints) (source, error) {
		t.Error("it asks for file events")
		return nil, errors.New("no events")
	}
	if err := p.Configure(t.Context(), PollConfig{Interval: 10, Debounce: -1}); err != nil {
		t.Fatal(err)
	}
	r := start(t, p)
	r.root(root)
	write(t, root+"/new/main.go", "package main // new")
	must(t, os.Rename(root+"/api", root+"/moved"))
	r.settle(root)
	if err := p.Configure(t.Context(), PollConfig{Interval: 20, Debounce: 0}); err != nil {
		t.Fatal(err)
	}
	write(t, root+"/index/main.go", "package niam") // of the same size
	must(t, os.RemoveAll(root+"/moved/users/db"))
	r.settle(root)
}

func TestPollConfig(t *testing.T) {
	sdk.Config(NewPoll().Configure) // panics at a wrong tag
	if c := NewPoll().watcher.config; c != (Config{Debounce: -1, Mode: "poll", Poll: 500}) {
		t.Errorf("the default is %+v", c)
	}
	if c := (PollConfig{Interval: 10, Debounce: 70}).polling(); c.debounce(time.Second) != 70*time.Millisecond || c.Mode != "poll" {
		t.Errorf("the configuration is %+v", c)
	}
}
