package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/sdk"
)

// version is the module's where the binary was made by `go install`, else the source's.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return sdk.Version
}

type versionInfo struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func newVersion(a *app) *cobra.Command {
	return a.asJSON(&cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  tqserver version --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionInfo{version(), runtime.Version(), runtime.GOOS, runtime.GOARCH}
			return a.print(cmd, v, func(t *table) { t.row(fmt.Sprintf("tqserver %s %s %s/%s", v.Version, v.Go, v.OS, v.Arch)) })
		},
	})
}
