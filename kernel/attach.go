package kernel

import (
	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/stage"
	"github.com/tqserver/tqserver/sdk"
)

// readAttached tells which plugins run in a debugger. Only a developer may have such: they skip every check of a file.
func (k *Kernel) readAttached(c *config.Config) (stage.Attached, error) {
	text, _ := k.lookupEnv(sdk.AttachEnv)
	if text == "" || !k.opts.Dev {
		return nil, nil
	}
	return stage.ParseAttached(text, c.Plugins)
}

func (k *Kernel) warnAttached() {
	if text, _ := k.lookupEnv(sdk.AttachEnv); text != "" && !k.opts.Dev {
		k.log.Warn(sdk.AttachEnv+" is ignored: only a server in dev mode attaches to plugins", "hint", "run: tqserver dev")
	}
}
