package config

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"gopkg.in/yaml.v3"
)

// DefaultYAML is the configuration file that is shipped, with every key, its
// default and what it does. It says the same as [Default].
//
//go:embed server.yaml
var DefaultYAML []byte

// Default returns a new Config with every default.
func Default() *Config {
	return &Config{
		Server: Server{
			Port:            8080,
			ReadTimeout:     30 * time.Second,
			WriteTimeout:    30 * time.Second,
			IdleTimeout:     120 * time.Second,
			ShutdownTimeout: 30 * time.Second,
			LogFile:         "logs/server_{date}.log",
			LogLevel:        "info",
			FastLane:        true,
			StateDir:        ".tqserver",
		},
		Workers: Workers{
			TempDir:             "/tmp/tqserver/bin",
			PortRangeStart:      9000,
			PortRangeEnd:        9999,
			ShutdownGracePeriod: 500 * time.Millisecond,
			ReadyTimeout:        10 * time.Second,
			DrainTimeout:        30 * time.Second,
			HoldTimeout:         10 * time.Second,
			HoldRequests:        1000,
			BinaryMaxAge:        24 * time.Hour,
			KeepReleases:        10,
			KeepWarm:            time.Minute,
			Probation:           time.Minute,
			Default: Worker{
				Instances:     Instances{1, 1},
				QueueTimeout:  10 * time.Second,
				QueueRequests: 1000,
				SlowStart:     10 * time.Second,
				GoMaxProcs:    1,
				ReadTimeout:   30 * time.Second,
				WriteTimeout:  30 * time.Second,
				IdleTimeout:   120 * time.Second,
				LogFile:       "logs/{path}/worker_{date}.log",
				Endpoint:      TCP,
			},
		},
		FileWatcher: FileWatcher{Debounce: 50 * time.Millisecond},
		Pages:       Pages{Directory: "pages"},
		Dev:         Dev{Editor: "vscode", Wait: 2 * time.Second},
		Plugins:     defaultPlugins(),
	}
}

func defaultPlugins() Plugins {
	return Plugins{
		Resolver:     Plugin{Use: defaultResolver},
		Builder:      []Plugin{{Use: "builtin:exec", Match: []string{"**/page.yaml"}}, {Use: defaultBuilder}},
		Watcher:      Plugin{Use: defaultWatcher},
		Checker:      Plugin{Use: defaultChecker},
		Rotator:      Plugin{Use: defaultRotator},
		StartTimeout: 5 * time.Second,
		RPCTimeout:   10 * time.Second,
		StopTimeout:  5 * time.Second,
		BuildTimeout: 10 * time.Minute,
		Probation:    time.Minute,
		Restart: Restart{
			Initial:       500 * time.Millisecond,
			Max:           30 * time.Second,
			ResetAfter:    time.Minute,
			Budget:        5,
			Per:           10 * time.Minute,
			DegradedRetry: 5 * time.Minute,
		},
	}
}

// Key is one key of the shipped configuration file.
type Key struct {
	Name    string `json:"name"`    // in full, such as workers.default.go_max_procs
	Type    string `json:"type"`    // int, string, list or mapping
	Default string `json:"default"` // as YAML
	Doc     string `json:"doc"`     // one line
	Reload  bool   `json:"reload"`  // whether a reload applies a new value
}

// restartOnly are the keys, with all below them, that a reload does not apply: the listener, the lock of the site, and
// how plugins are looked after stay.
var restartOnly = []string{"server.host", "server.port", "server.state_dir", "server.metrics", "plugins.defaults"}

// Keys returns every key of [DefaultYAML], in its order.
func Keys() []Key { return slices.Clone(shippedKeys()) }

var shippedKeys = sync.OnceValue(func() []Key {
	var doc yaml.Node
	if err := yaml.Unmarshal(DefaultYAML, &doc); err != nil {
		panic(fmt.Sprintf("config: embedded server.yaml: %v", err))
	}
	return appendKeys(nil, "", doc.Content[0])
})

func appendKeys(keys []Key, prefix string, section *yaml.Node) []Key {
	for i := 0; i+1 < len(section.Content); i += 2 {
		key, value := section.Content[i], section.Content[i+1]
		name := prefix + key.Value
		if value.Kind == yaml.MappingNode && len(value.Content) > 0 {
			keys = appendKeys(keys, name+".", value)
			continue
		}
		keys = append(keys, Key{
			Name:    name,
			Type:    typeOf(value),
			Default: inline(value),
			Doc:     strings.TrimSpace(strings.TrimPrefix(key.LineComment+value.LineComment, "#")),
			Reload: !slices.ContainsFunc(restartOnly, func(key string) bool {
				return name == key || strings.HasPrefix(name, key+".")
			}),
		})
	}
	return keys
}

func typeOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "mapping"
	case n.Kind == yaml.SequenceNode:
		return "list"
	case n.ShortTag() == intTag:
		return "int"
	}
	return "string"
}

// inline is a value of the shipped file on one line.
func inline(n *yaml.Node) string {
	bare := *n
	bare.LineComment, bare.HeadComment, bare.FootComment = "", "", ""
	bare.Style |= yaml.FlowStyle
	out, err := yaml.Marshal(&bare)
	if err != nil {
		panic(fmt.Sprintf("config: embedded server.yaml: %v", err))
	}
	return strings.TrimSpace(string(out))
}
