package builder

import (
	"os"
	"os/exec"
	"strings"

	"github.com/tqserver/tqserver/sdk"
)

const textLimit = 1 << 20 // bytes of a tool's output that are kept

// prepare makes a command that runs in dir, with further variables. The program is found already.
func prepare(path, dir string, env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "PWD="+dir), env...) // PWD: paths come back as they were given, symlinks and all
	return cmd
}

// output passes on what a tool prints, and keeps the beginning of it.
type output struct {
	event func(sdk.Event)
	text  strings.Builder
}

func (o *output) take(e sdk.Event) {
	if o.text.Len() < textLimit {
		o.text.WriteString(e.Log + "\n")
	}
	o.event(e)
}
