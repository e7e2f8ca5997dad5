package kernel

import (
	"bytes"
	"errors"
	"slices"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel/stage"
)

// plan is what a configuration says about plugins, checked as far as that goes without starting one.
type plan struct {
	config   *config.Config
	singles  map[string]stage.Spec
	builders []*builder
}

// plan finds the executables of all plugins that a configuration names.
func (k *Kernel) plan(c *config.Config) (plan, error) {
	o, err := k.resolveOptions(c)
	if err != nil {
		return plan{}, err
	}
	pl := plan{config: c, singles: map[string]stage.Spec{}}
	var errs []error
	for _, n := range allConfigured(c) {
		spec, err := stage.Resolve(n.stage, n.entry, o)
		if errs = append(errs, err); n.stage == "builder" {
			pl.builders = append(pl.builders, &builder{entry: n.entry, spec: spec})
		} else {
			pl.singles[n.stage] = spec
		}
	}
	return pl, errors.Join(errs...)
}

// resolve finds the executable of one plugin, as it is now. A lock file that cannot be read concerns custom ones only.
func (k *Kernel) resolve(n configured) (stage.Spec, error) {
	o, err := k.resolveOptions(k.config())
	if err != nil && !n.builtIn() {
		return stage.Spec{}, err
	}
	return stage.Resolve(n.stage, n.entry, o)
}

func (pl plan) specs() []stage.Spec {
	specs := []stage.Spec{pl.singles["resolver"]}
	for _, b := range pl.builders {
		specs = append(specs, b.spec)
	}
	return append(specs, pl.singles["watcher"], pl.singles["checker"], pl.singles["rotator"])
}

// sameSpec tells whether a plugin started from a would be the same as one started from b.
func sameSpec(a, b stage.Spec) bool {
	return a.Name == b.Name && a.Path == b.Path && a.Dir == b.Dir && slices.Equal(a.Args, b.Args) && slices.Equal(a.Env, b.Env) && bytes.Equal(a.Config, b.Config)
}

func sameMatch(a, b *builder) bool { return slices.Equal(a.entry.Match, b.entry.Match) }

// succeed gives, for each builder of a plan, the one that it follows, which may be the same, and those that nothing
// follows. A builder follows one that is the same, else one of the same name, else one that builds the same pages.
func succeed(have, next []*builder) (follows map[*builder]*builder, left []*builder) {
	follows, left = map[*builder]*builder{}, slices.Clone(have)
	for _, alike := range []func(a, b *builder) bool{
		func(a, b *builder) bool { return sameSpec(a.spec, b.spec) && sameMatch(a, b) },
		func(a, b *builder) bool { return a.spec.Name == b.spec.Name },
		sameMatch,
	} {
		for _, b := range next {
			if follows[b] != nil {
				continue
			}
			if i := slices.IndexFunc(left, func(old *builder) bool { return alike(old, b) }); i >= 0 {
				follows[b] = left[i]
				left = slices.Delete(left, i, i+1)
			}
		}
	}
	return follows, left
}
