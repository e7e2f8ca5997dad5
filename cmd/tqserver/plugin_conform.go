package main

import "github.com/tqserver/tqserver/sdk/stagetest"

// quickConfig makes plugins of the bundle quick enough to be tested.
var quickConfig = map[string]string{"checker/http": "{interval_ms: 100, timeout_ms: 1000}", "rotator/file": "{max_size_mb: 1, keep: 0}"}

// builtinPlugin is a plugin of the bundle, in an executable that is this one.
func builtinPlugin(self, stage, name string) stagetest.Plugin {
	p := stagetest.Plugin{Path: self, Args: []string{"plugin", "run", stage + "/" + name}, Config: quickConfig[stage+"/"+name]}
	if stage == "rotator" {
		p.Output = []string{"logs/*"}
	}
	return p
}
