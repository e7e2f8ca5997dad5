package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/kernel"
	"github.com/tqserver/tqserver/sdk"
)

func newPluginDescribe(a *app) *cobra.Command {
	var stage string
	cmd := a.asJSON(&cobra.Command{
		Use:   "describe PLUGIN",
		Short: "Show what a plugin is: name, version, stages and its configuration keys",
		Long: `Describe asks a plugin what it is, without starting it. PLUGIN is a stage (the plugin that the
configuration gives it), a built-in plugin, or the path of a file, which is executed with --describe.`,
		Example: "  tqserver plugin describe builder         # what the configuration names\n  tqserver plugin describe resolver/fs     # built in, the same as builtin:fs\n  tqserver plugin describe ./bin/myplugin",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := a.describe(cmd.Context(), args[0], stage)
			if err != nil {
				return err
			}
			for _, d := range all {
				mask(d.Schema)
				if err := a.print(cmd, d, func(t *table) { showDescription(t, d) }); err != nil {
					return err
				}
			}
			return nil
		},
	})
	cmd.Flags().StringVar(&stage, "stage", "", "stage of a built-in plugin whose name more than one has")
	return cmd
}

func (a *app) describe(ctx context.Context, name, stage string) ([]sdk.Description, error) {
	c, err := a.load()
	if err != nil {
		return nil, err
	}
	o := a.options(c)
	if slices.Contains(stages, name) {
		return kernel.DescribeStage(ctx, o, name)
	}
	use := name
	if s, plugin, ok := strings.Cut(name, "/"); ok && bundle[s][plugin] != nil {
		stage, use = s, "builtin:"+plugin
	} else if plugin, ok := strings.CutPrefix(name, "builtin:"); ok {
		if stage, err = stageOf(plugin, stage); err != nil {
			return nil, err
		}
	} else if stage = ""; !strings.Contains(name, "/") {
		return nil, noSuchPlugin(name)
	}
	d, err := kernel.DescribePlugin(ctx, o, stage, use)
	return []sdk.Description{d}, err
}

// stageOf finds the stage that has a built-in plugin of this name; given, if not "", is the one that was asked for.
func stageOf(plugin, given string) (string, error) {
	if given != "" && !slices.Contains(stages, given) {
		return "", unknownStage(given)
	}
	var have []string
	for _, s := range stages {
		if bundle[s][plugin] != nil && (given == "" || s == given) {
			have = append(have, s)
		}
	}
	switch len(have) {
	case 0:
		return "", noSuchPlugin(plugin)
	case 1:
		return have[0], nil
	}
	return "", &usageError{fmt.Errorf("more than one stage has a plugin builtin:%s", plugin), "add --stage with one of " + strings.Join(have, ", ")}
}

func noSuchPlugin(name string) error {
	all := allBuiltins()
	hint := fmt.Sprintf("name a stage (%s), one of %s, or the path of a file as ./%s", strings.Join(stages, ", "), strings.Join(all, ", "), name)
	if near := config.Nearest(name, stages); near != "" {
		hint = fmt.Sprintf("did you mean %s? %s", near, hint)
	}
	return &usageError{fmt.Errorf("there is no plugin %q", name), hint}
}

// mask hides the defaults of secrets.
func mask(s sdk.Schema) {
	for i := range s {
		if s[i].Sensitive && s[i].Default != "" {
			s[i].Default = `"***"`
		}
	}
}

func showDescription(t *table, d sdk.Description) {
	t.row("name", printable(d.Name))
	t.row("version", dash(printable(d.Version)))
	language := dash(printable(d.Language))
	if d.SDKVersion != "" {
		language += ", SDK " + printable(d.SDKVersion)
	}
	t.row("language", language)
	t.row("handshake", d.Protocol)
	t.row("stages", dash(strings.Join(d.Stages(), ", ")))
	for _, s := range d.Services {
		if !slices.ContainsFunc(d.Stages(), func(stage string) bool { return sdk.ServiceName(stage) == s }) {
			t.row("also offers", printable(s)+", which this tqserver does not use")
		}
	}
	t.row("capabilities", dash(printable(strings.Join(d.Capabilities, ", "))))
	_ = t.w.Flush() // the next table has columns of its own
	t.row()
	if len(d.Schema) == 0 {
		t.row("It declares no configuration keys.")
		return
	}
	t.row("KEY", "TYPE", "DEFAULT", "MEANING")
	for _, f := range d.Schema {
		t.row(printable(f.Name), dash(f.Type), printable(shownDefault(f)), printable(firstLine(meaning(f))))
	}
}

func shownDefault(f sdk.Field) string {
	if f.Required {
		return "(required)"
	}
	return cmp.Or(f.Default, "-")
}

// meaning is the doc of a key, with what limits its values.
func meaning(f sdk.Field) string {
	parts := []string{f.Doc}
	if len(f.OneOf) > 0 {
		parts = append(parts, "one of "+strings.Join(f.OneOf, ", "))
	}
	if f.Min != nil {
		parts = append(parts, fmt.Sprint("at least ", *f.Min))
	}
	if f.Max != nil {
		parts = append(parts, fmt.Sprint("at most ", *f.Max))
	}
	if f.Sensitive {
		parts = append(parts, "a secret")
	}
	return strings.TrimPrefix(strings.Join(parts, "; "), "; ")
}

// printable keeps what a plugin says about itself from steering the terminal or breaking the table.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}
