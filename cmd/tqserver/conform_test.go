//go:build linux

package main

import (
	"testing"

	"github.com/tqserver/tqserver/sdk/stagetest"
)

// TestBundleConforms runs the conformance suite against the plugins of the default bundle, as the server starts them.
func TestBundleConforms(t *testing.T) {
	self := stagetest.Build(t, ".")
	for _, stage := range stages {
		for _, name := range builtinNames(stage) {
			t.Run(stage+"/"+name, func(t *testing.T) {
				t.Parallel()
				p := builtinPlugin(self, stage, name)
				if name == "exec" {
					p.Page = "testdata/conform/exec"
				}
				if len(stagetest.Checks(stage)) == 0 {
					t.Fatal("there are no checks")
				}
				stagetest.Test(t, stage, p)
			})
		}
	}
}
