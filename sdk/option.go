package sdk

import (
	"context"
	"fmt"
	"reflect"
)

// Option adds an ability to a plugin.
type Option func(*plugin)

// Exclusive is for a plugin that holds something which two processes cannot hold at once, such as a port or a lock. To
// replace it, the kernel stops the old instance first and does without the stage until the new one runs.
func Exclusive() Option {
	return func(p *plugin) { p.capabilities = append(p.capabilities, CapabilityExclusive) }
}

// Config gives a plugin a typed configuration. C is a struct whose tags are the schema of the YAML's `config:` block
// (see Schema), a field that is a struct without a tag stands for its own fields; a key that is not in it is refused, with its line, before the plugin sees it. apply is called with the
// defaults filled in, once before the stage's first call, and again whenever the block changes; an error keeps the
// configuration before. If *C has a method `Validate() error`, it is called first; it must have no side effects.
func Config[C any](apply func(ctx context.Context, config C) error) Option {
	schema := configSchema[C]()
	decode := func(config []byte) (*C, []Diagnostic) {
		c := new(C)
		if found := schema.Check(config); len(found) > 0 {
			return nil, found
		}
		if err := schema.fill(reflect.ValueOf(c).Elem(), config); err != nil {
			return nil, []Diagnostic{{Path: "config", Message: err.Error()}}
		}
		if err := validate(c); err != nil {
			return nil, []Diagnostic{{Path: "config", Message: err.Error()}}
		}
		return c, nil
	}
	return func(p *plugin) {
		p.schema = schema
		p.validate = func(config []byte) []Diagnostic { _, found := decode(config); return found }
		p.configure = func(ctx context.Context, config []byte) error {
			c, found := decode(config)
			if len(found) > 0 {
				return fmt.Errorf("%s", found[0])
			}
			return apply(ctx, *c)
		}
	}
}

// validate asks a configuration about itself.
func validate(config any) error {
	if v, ok := config.(interface{ Validate() error }); ok {
		return v.Validate()
	}
	return nil
}
