package stage

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/tqserver/tqserver/config"
)

// hint says what to do about the failure of a custom plugin, "" where its cause says that already, or nobody but the
// makers of tqserver can do anything.
func (e *Error) hint() string {
	var known config.Errors
	switch {
	case errors.As(e.Err, &known) || strings.HasPrefix(e.Name, "builtin:"):
		return ""
	case errors.Is(e.Err, syscall.ENOEXEC):
		return fmt.Sprintf("the file is no program for this machine: build it for %s/%s, and begin a script with #!", runtime.GOOS, runtime.GOARCH)
	case errors.Is(e.Err, os.ErrNotExist):
		return "the file, or the interpreter that its first line names, is not there"
	case e.Step == "start":
		return fmt.Sprintf("see what `%s --describe` prints: from a plugin of tqserver it is JSON", e.Name)
	case e.Step == "config" || e.Step == "configure":
		return fmt.Sprintf("check config: and env: of plugins.%s, then run `tqserver reload`", e.Stage)
	}
	return fmt.Sprintf("mend the plugin, or have plugins.%s use another one, then run `tqserver reload`", e.Stage)
}
