package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/sdk"
	"github.com/tqserver/tqserver/sdk/stagetest"
)

// conformance is `plugin test`: what its flags say.
type conformance struct {
	*app
	stage, settings string
	plugin          stagetest.Plugin
	options         stagetest.Options
	list            bool
}

func newPluginTest(a *app) *cobra.Command {
	c := &conformance{app: a}
	cmd := a.asJSON(&cobra.Command{
		Use:   "test FILE|builtin:NAME",
		Short: "Test whether a plugin keeps to the protocol",
		Long: `Runs the conformance suite against a plugin in any language: it is started again and again as the server does,
in a directory of its own, and each check says what is wrong and what the protocol wants instead. A running server
has no part in it. The exit code is 1 when a check fails.`,
		Example: `  tqserver plugin test ./bin/my-resolver --stage resolver
  tqserver plugin test ./bin/oneline --config '{file: all.log}' --output all.log
  tqserver plugin test builtin:file --check common --check rotator/kept
  tqserver plugin test --list --stage watcher`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) },
	})
	f := cmd.Flags()
	f.StringVar(&c.stage, "stage", "", "the `stage` that it is tested as; can be left out if it has one only")
	f.StringVar(&c.settings, "config", "", "the plugin's configuration: a `file`, or YAML as below `config:`")
	f.StringVar(&c.plugin.Dir, "workdir", "", "`directory` that is copied to be the plugin's working directory")
	f.StringVar(&c.plugin.Tree, "tree", "", "resolver: `directory` of pages to resolve, instead of the suite's")
	f.StringVar(&c.plugin.Page, "page", "", "builder: `directory` of a page to build, instead of a small Go page")
	f.StringArrayVar(&c.plugin.Output, "output", nil, "rotator: `pattern` of the files where lines appear, - for the server's standard output; can be repeated")
	f.StringArrayVar(&c.options.Checks, "check", nil, "`name` of a check or a suite: run these only; can be repeated")
	f.Float64Var(&c.options.Slack, "slack", 1, "`factor` on all time limits, for slow machines")
	f.BoolVar(&c.list, "list", false, "list the checks and run none")
	return cmd
}

func (c *conformance) run(cmd *cobra.Command, args []string) error {
	if c.list {
		return c.listChecks(cmd)
	}
	if len(args) == 0 {
		return &usageError{errors.New("which plugin is to be tested?"), "name its file, or builtin:NAME"}
	}
	if err := c.find(cmd, args[0]); err != nil {
		return err
	}
	if err := c.readSettings(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	out := &conformanceOutput{w: cmd.OutOrStdout(), json: c.json, counts: map[string]int{}}
	_, out.color = console(out.w)
	start := time.Now()
	err := stagetest.Run(ctx, c.stage, c.plugin, c.options, out.result)
	if len(out.counts) > 0 && !c.json {
		fmt.Fprintf(out.w, "%d passed, %d failed, %d skipped in %s\n", out.counts[stagetest.Passed], out.counts[stagetest.Failed],
			out.counts[stagetest.Skipped], time.Since(start).Round(100*time.Millisecond))
	}
	if errors.Is(err, stagetest.ErrFailed) {
		return fmt.Errorf("%s does not conform as a %s: %d of %d checks failed", args[0], c.stage, out.counts[stagetest.Failed], out.total())
	}
	return err
}

// find looks for the plugin that is named, and, if that is left out, for its stage.
func (c *conformance) find(cmd *cobra.Command, name string) error {
	builtin, ok := strings.CutPrefix(name, "builtin:")
	if ok {
		return c.findBuiltin(builtin)
	}
	c.plugin.Path = name
	if c.stage != "" {
		return nil
	}
	d, err := sdk.Describe(cmd.Context(), name)
	if err != nil {
		return &usageError{fmt.Errorf("find out the stage of %s: %w", name, err), "name it with --stage"}
	}
	if found := d.Stages(); len(found) != 1 {
		return &usageError{fmt.Errorf("%s has the stages %q", name, found), "name one with --stage"}
	}
	c.stage = d.Stages()[0]
	return nil
}

func (c *conformance) findBuiltin(name string) error {
	if stage, short, ok := strings.Cut(name, "/"); ok {
		name, c.stage = short, cmp.Or(c.stage, stage)
	}
	var found []string
	for _, stage := range stages {
		if slices.Contains(builtinNames(stage), name) && (c.stage == "" || c.stage == stage) {
			found = append(found, stage)
		}
	}
	if len(found) == 0 {
		return &usageError{fmt.Errorf("no plugin %q in this binary", name), "there are " + strings.Join(allBuiltins(), ", ")}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find tqserver's own executable: %w", err)
	}
	c.stage = found[0]
	p := builtinPlugin(self, c.stage, name)
	c.plugin.Path, c.plugin.Args = p.Path, p.Args
	c.settings = cmp.Or(c.settings, p.Config)
	if len(c.plugin.Output) == 0 {
		c.plugin.Output = p.Output
	}
	return nil
}

// builtinPlugin is a plugin of an executable that is tqserver, with settings that make it quick enough to be tested.
func builtinPlugin(self, stage, name string) stagetest.Plugin {
	p := stagetest.Plugin{Path: self, Args: []string{"plugin", "run", stage + "/" + name}}
	switch stage + "/" + name {
	case "checker/http", "checker/tcp":
		p.Config = "{interval_ms: 100, timeout_ms: 1000}"
	case "rotator/file":
		p.Config, p.Output = "{max_size_mb: 1, keep: 0}", []string{"logs/*"}
	case "rotator/stdout":
		p.Output = []string{stagetest.ServerOutput}
	}
	return p
}

// readSettings takes the configuration from a file, if it names one.
func (c *conformance) readSettings() error {
	c.plugin.Config = c.settings
	if c.settings == "" || strings.ContainsAny(c.settings, ":{\n") {
		return nil
	}
	text, err := os.ReadFile(c.settings)
	if err != nil {
		return fmt.Errorf("read the plugin's configuration: %w", err)
	}
	c.plugin.Config = string(text)
	return nil
}

func (c *conformance) listChecks(cmd *cobra.Command) error {
	tested := stages
	if c.stage != "" {
		tested = []string{c.stage}
	}
	var all []stagetest.Check
	for _, stage := range tested {
		for _, check := range stagetest.Checks(stage) {
			if !slices.Contains(all, check) {
				all = append(all, check)
			}
		}
	}
	if len(all) == 0 {
		return &usageError{fmt.Errorf("no stage %q", c.stage), "there are " + strings.Join(stages, ", ")}
	}
	return c.print(cmd, all, func(t *table) {
		for _, check := range all {
			t.row(check.Suite+"/"+check.Name, check.Doc)
		}
	})
}

// conformanceOutput shows each result when it is there.
type conformanceOutput struct {
	w           io.Writer
	json, color bool
	counts      map[string]int
}

func (o *conformanceOutput) total() (n int) {
	for _, count := range o.counts {
		n += count
	}
	return n
}

// marks are what the outcomes look like, with their colors.
var marks = map[string]struct{ text, color string }{
	stagetest.Passed: {"ok  ", "32"}, stagetest.Failed: {"FAIL", "31;1"}, stagetest.Skipped: {"skip", "33"},
}

func (o *conformanceOutput) result(r stagetest.Result) {
	o.counts[r.Outcome]++
	if o.json {
		printJSONLine(o.w, r)
		return
	}
	mark := marks[r.Outcome].text
	if o.color {
		mark = "\x1b[" + marks[r.Outcome].color + "m" + mark + "\x1b[0m"
	}
	fmt.Fprintf(o.w, "%s  %-24s %7s\n", mark, r.Suite+"/"+r.Check, r.Took.Round(time.Millisecond))
	if r.Detail != "" {
		fmt.Fprintln(o.w, "      "+strings.ReplaceAll(r.Detail, "\n", "\n      "))
	}
	if r.Hint != "" {
		fmt.Fprintln(o.w, "      hint: "+r.Hint)
	}
}
