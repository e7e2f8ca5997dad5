package stagetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stages are those that there are suites for.
var stages = []string{"resolver", "builder", "watcher", "checker", "rotator"}

// badPlugins are ways to be bad (see testdata/bad): each names the check that has to find it, and what that says.
var badPlugins = []struct {
	way, want string
	slack     float64 // of the time limits; 0: 1
	late      string  // what it says instead on a machine that is too busy for that; "": the same
}{
	{way: "common/handshake", want: `standard output began with "hello", which is no handshake`},
	{way: "common/handshake:late", want: "start and handshake: no answer within 5s"},
	{way: "common/cookie", want: "it exited with status 0"},
	{way: "common/cookie:silent", want: "it said nothing"},
	{way: "common/cookie:waits", want: "start without the cookie: no answer within 5s"},
	{way: "common/mtls", want: "gets an answer"},
	{way: "common/mtls:any", want: "a client with a certificate of its own gets an answer"},
	{way: "common/describe", want: "--describe prints the version 2.0.0, Init and Schema say 1.0.0"},
	{way: "common/describe:cookie", want: "--describe: exit status 1"},
	{way: "common/init", want: `Init answered the name "bad" and the version ""`},
	{way: "common/service", want: "it offers [tqserver.plugin.checker.v1.Checker], and not tqserver.plugin.resolver.v1.Resolver"},
	{way: "common/unknown-call", want: "was answered with Internal, want Unimplemented"},
	{way: "common/stdout", want: `after the handshake it printed "hello"`},
	{way: "common/stderr", want: `it wrote the line "hello"`},
	{way: "common/unknown-key", want: "want a diagnostic with the path config.stagetest_no_such_key"},
	{way: "common/validate-pure", want: "Validate changed the file work"},
	{way: "common/validate-pure:port", want: "Validate opened a socket: tcp"},
	{way: "common/standby", want: "Configure changed the file work"},
	{way: "common/configure-twice", want: "the second time: Configure: rpc error: code = InvalidArgument desc = configured already"},
	{way: "common/configure-open", want: "after Configure: "},
	{way: "common/configure-bad", want: `Configure took "[1, 2]", which is no JSON object`},
	{way: "common/configure-bad:dies", want: "which is no JSON object: the process has ended (exit status 3)"},
	{way: "common/big-config", want: "received message larger than max"},
	{way: "common/heartbeat", want: "Check: no answer within 1s"},
	{way: "common/heartbeat:nonce", want: "heartbeat answered with 1, sent was 2"},
	{way: "common/log-level", want: "SetLogLevel: rpc error: code = Unimplemented"},
	{way: "common/signals", want: "the process has ended (signal: terminated)"},
	{way: "common/shutdown", want: "Shutdown: rpc error: code = Internal desc = not now"},
	{way: "common/shutdown:stays", want: "the process still runs after Shutdown: after 5s"},
	{way: "common/cancel", want: "stream 2, after those before were cancelled: a table of the tree with revision 1 did not come within 5s"},
	{way: "common/cancel:files", want: "3 more streams were opened and cancelled, and 3 more files are open"},
	{way: "common/lifeline", want: "the process still runs after the end of its standard input: after 5s"},
	{way: "common/children", want: "(sleep) still runs"},
	{way: "common/children:session", want: "(sleep) still runs"},

	{way: "resolver/tree", want: "the table of a tree with pages has no routes"},
	{way: "resolver/tree:mute", want: "a table of the tree with revision 1 did not come within 5s"},
	{way: "resolver/routes", want: `is not canonical`},
	{way: "resolver/routes:twice", want: "is claimed by pages"},
	{way: "resolver/same", want: "the same tree gave the routes"},
	{way: "resolver/version", want: "version 1 came after 1"},
	{way: "resolver/epoch", want: `two processes have the epoch "1"`},
	{way: "resolver/refused", want: "after a table was refused: the process has ended (exit status 3)"},
	{way: "resolver/added", want: "in the next table: false, on the disk: true"},
	{way: "resolver/empty", want: "a directory that is missing: wait for a table"},
	{way: "resolver/large", want: "s at best, want 1s", late: "a table of the tree with revision 1 did not come within 5s"},
	{way: "resolver/large:cut", want: "the table of a tree with 10000 pages has 100 routes"},

	{way: "watcher/first", want: "gone.go was not reported, want removed"},
	{way: "watcher/first:rescan", want: "the first report of a set has not rescan=true"},
	{way: "watcher/known", want: "the first report of set 1 did not come within", slack: 0.5},
	{way: "watcher/digest", want: "the digest of "},
	{way: "watcher/changes", want: "the report that made.go was created did not come within", slack: 0.5},
	{way: "watcher/changes:removed", want: "the report that b.go was removed did not come within", slack: 0.5},
	{way: "watcher/down", want: "was not reported, want"},
	{way: "watcher/storm", want: "50 quick saves were reported"},
	{way: "watcher/unchanged", want: "a.go was reported as modified"},
	{way: "watcher/ignored", want: "was reported as created"},
	{way: "watcher/later", want: "the report that c.go was created did not come within", slack: 0.5},
	{way: "watcher/replaced", want: "was reported as created, want no report"},
	{way: "watcher/large", want: "was not reported, want removed"},

	{way: "checker/first", want: "down was reported first as healthy"},
	{way: "checker/reason", want: `was reported with the reason ""`},
	{way: "checker/change", want: "the report that worker is unhealthy did not come within", slack: 0.3},
	{way: "checker/once", want: "a target that stayed healthy was reported"},
	{way: "checker/removed", want: "a target was reported that the newest set has not"},
	{way: "checker/added", want: "first was reported with version 1 of the set, want 2"},
	{way: "checker/flapping", want: "one failed probe made the target unhealthy: answered 500"},
	{way: "checker/hung", want: "the report that worker is healthy did not come within", slack: 0.3},
	{way: "checker/socket", want: "the report that worker is healthy did not come within", slack: 0.3},
	{way: "checker/large", want: "did not come within", slack: 0.3},

	{way: "builder/result", want: "the artifact's SHA-256 is "},
	{way: "builder/result:mode", want: "want a regular file that can be executed"},
	{way: "builder/result:place", want: "is not below out_dir"},
	{way: "builder/result:release", want: `the release "latest" is no lower-case hex hash`},
	{way: "builder/runs", want: "the worker ended before it was ready: exit status 1"},
	{way: "builder/again", want: "the same source gave the release"},
	{way: "builder/edited", want: "after an edit the release is 00000000000000000000000000000000 as before"},
	{way: "builder/edited:removed", want: "the release before, which may still serve: find the artifact"},
	{way: "builder/fault", want: "a page whose files hold garbage: Build: rpc error: code = Unknown"},
	{way: "builder/fault:silent", want: "was refused without a diagnostic"},
	{way: "builder/inputs", want: "the digest of the input"},
	{way: "builder/inputs:fault", want: "of a build that failed: no file of the page's directory is among the 0 inputs"},
	{way: "builder/parallel", want: "one build at a time"},
	{way: "builder/untouched", want: "the build changed "},
	{way: "builder/cancel", want: "of the cancelled build process"},

	{way: "rotator/ack", want: "Write of batch 4: store log lines: enough"},
	{way: "rotator/kept", want: "acknowledged lines are not in [logs/*] after the plugin was killed"},
	{way: "rotator/again", want: "Write of batch 1: store log lines: the batch was stored already"},
	{way: "rotator/odd", want: "Write of batch 2: store log lines: a line is not UTF-8"},
	{way: "rotator/odd:cut", want: "a line that was acknowledged is not in [logs/*]"},
	{way: "rotator/large", want: "store log lines: too many lines"},
	{way: "rotator/streams", want: "store log lines: too many open files"},
	{way: "rotator/blocked", want: "cannot be made was acknowledged"},
	{way: "rotator/blocked:dies", want: "the process has ended (exit status 3)"},
}

// double is the plugin of testdata/bad, bad in one way or, with "", good.
func double(path, stage, way string) Plugin {
	return Plugin{Path: path, Env: []string{"STAGE=" + stage, "BAD=" + way}, Output: []string{"logs/*"}}
}

// stageOf gives the stage whose double is bad in a way: for the common suite it is a resolver.
func stageOf(check string) string {
	if suite, _, _ := strings.Cut(check, "/"); suite != "common" {
		return suite
	}
	return "resolver"
}

func TestEachCheckCanFail(t *testing.T) {
	t.Parallel()
	path := Build(t, "./testdata/bad")
	outcomes := make([]outcome, len(badPlugins))
	var running sync.WaitGroup
	slots := make(chan struct{}, 16) // most of the time they wait: parallel subtests would be too few
	for i, b := range badPlugins {
		slots <- struct{}{}
		running.Go(func() { defer func() { <-slots }(); outcomes[i] = runBad(t.Context(), path, b.way, b.slack) })
	}
	running.Wait()
	for i, b := range badPlugins {
		t.Run(b.way, func(t *testing.T) {
			for range 2 { // on a busy machine another limit may have passed before the fault was seen
				if o := outcomes[i]; len(o.results) != 1 || o.results[0].Outcome != Failed || !strings.Contains(o.results[0].Detail, b.want) {
					outcomes[i] = runBad(t.Context(), path, b.way, b.slack)
				}
			}
			if o := outcomes[i]; !errors.Is(o.err, ErrFailed) || len(o.results) != 1 {
				t.Fatalf("got %v and the results %v, want that one check failed", o.err, o.results)
			}
			r := outcomes[i].results[0]
			if r.Outcome != Failed || !strings.Contains(r.Detail, b.want) && (b.late == "" || !strings.Contains(r.Detail, b.late)) {
				t.Errorf("%s: %q\nwant that it failed and says %q", r.Outcome, r.Detail, b.want)
			}
			if !strings.Contains(r.Hint, protocolPage) {
				t.Errorf("the hint %q does not name its place in the protocol", r.Hint)
			}
		})
	}
}

type outcome struct {
	results []Result
	err     error
}

func runBad(ctx context.Context, path, way string, slack float64) (o outcome) {
	check, _, _ := strings.Cut(way, ":")
	o.err = Run(ctx, stageOf(check), double(path, stageOf(check), way), Options{Checks: []string{check}, Slack: slack},
		func(r Result) { o.results = append(o.results, r) })
	return o
}

func TestNoCheckWithoutBadPlugin(t *testing.T) {
	found := map[string]bool{}
	for _, b := range badPlugins {
		check, _, _ := strings.Cut(b.way, ":")
		found[check] = false
	}
	for _, stage := range stages {
		for _, c := range Checks(stage) {
			name := c.Suite + "/" + c.Name
			if _, ok := found[name]; !ok {
				t.Errorf("no bad plugin shows that %s can fail", name)
			}
			found[name] = true
		}
	}
	for name, exists := range found {
		if !exists {
			t.Errorf("there is a bad plugin for the check %s, which does not exist", name)
		}
	}
}

// The doubles fail for what is bad about them only.
func TestGoodPluginPasses(t *testing.T) {
	t.Parallel()
	path := Build(t, "./testdata/bad")
	outcomes := make([]outcome, len(stages))
	var running sync.WaitGroup
	for i, stage := range stages {
		checks := []string{stage}
		if stage == "resolver" {
			checks = nil
		}
		running.Go(func() {
			o := &outcomes[i]
			o.err = Run(t.Context(), stage, double(path, stage, ""), Options{Checks: checks, Slack: testSlack}, func(r Result) { o.results = append(o.results, r) })
		})
	}
	running.Wait()
	for i, stage := range stages {
		if outcomes[i].err != nil || len(outcomes[i].results) == 0 {
			t.Errorf("%s: got %v and %d results", stage, outcomes[i].err, len(outcomes[i].results))
		}
		for _, r := range outcomes[i].results {
			if r.Outcome == Passed || r.Check == "cancel" && r.Outcome == Skipped { // its build may be over too soon on a busy machine
				continue
			}
			t.Errorf("%s/%s %s: %s", r.Suite, r.Check, r.Outcome, r.Detail)
		}
	}
}

// What does not start is not tried with every check.
func TestBrokenPluginIsTriedOnce(t *testing.T) {
	var ran []string
	err := Run(t.Context(), "resolver", Plugin{Path: "/bin/true"}, Options{}, func(r Result) {
		if r.Outcome != Skipped {
			ran = append(ran, r.Check+" "+r.Outcome)
		}
	})
	if want := []string{"handshake failed", "cookie failed"}; !errors.Is(err, ErrFailed) || !slices.Equal(ran, want) {
		t.Errorf("got %v and %v, want %v", ran, err, want)
	}
}

var docRow = regexp.MustCompile("(?m)^\\| `([a-z-]+/[a-z-]+)` \\| (.*) \\|$")

// TestDocumentation holds the tables in conformance.md to the suites.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/plugins/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, have []string
	for _, row := range docRow.FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, row[1]+": "+row[2])
	}
	for _, stage := range stages {
		for _, c := range Checks(stage) {
			if row := c.Suite + "/" + c.Name + ": " + c.Doc; !slices.Contains(have, row) {
				have = append(have, row)
			}
		}
	}
	slices.Sort(documented)
	slices.Sort(have)
	if !slices.Equal(documented, have) {
		t.Errorf("conformance.md lists\n%s\nthe suites are\n%s", strings.Join(documented, "\n"), strings.Join(have, "\n"))
	}
}

func TestRunRefusesWhatIsNotThere(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		stage  string
		plugin Plugin
		checks []string
		want   string
	}{
		{"router", Plugin{Path: self}, nil, `unknown stage "router": there are resolver`},
		{"resolver", Plugin{Path: "/nowhere/plugin"}, nil, "find the plugin: stat /nowhere/plugin"},
		{"resolver", Plugin{Path: self}, []string{"resolver/tree", "builder"}, `there is no check "builder" for this stage`},
		{"resolver", Plugin{Path: self, Config: "- a list"}, nil, "want a mapping of keys to values"},
	} {
		err := Run(t.Context(), c.stage, c.plugin, Options{Checks: c.checks}, func(r Result) { t.Errorf("a check ran: %v", r) })
		if err == nil || errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	path := Build(t, "./testdata/bad")
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	before := scratch(t)
	go func() { // when the plugin runs
		for slices.Equal(before, scratch(t)) && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel(stop)
	}()
	err := Run(ctx, "resolver", double(path, "resolver", "resolver/tree:mute"), Options{Checks: []string{"resolver/tree"}, Slack: 100},
		func(r Result) { t.Errorf("a result was reported: %v", r) })
	if !errors.Is(err, stop) {
		t.Errorf("got %v, want %v", err, stop)
	}
}

func TestNothingIsLeft(t *testing.T) {
	path := Build(t, "./testdata/bad")
	dir, err := os.MkdirTemp("", "tq") // a short path: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
	for _, way := range []string{"common/children:session", "common/stdout"} {
		plugin := double(path, "resolver", way)
		mark := fmt.Sprintf("MARK=%d", time.Now().UnixNano())
		plugin.Env = append(plugin.Env, mark)
		err := Run(t.Context(), "resolver", plugin, Options{Checks: []string{way[:strings.IndexAny(way+":", ":")]}}, func(Result) {})
		if !errors.Is(err, ErrFailed) {
			t.Errorf("got %v, want a failed check", err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for len(relatives(-1, mark)) > 0 {
			if time.Now().After(deadline) {
				t.Fatalf("%s: still running: %s", way, describeAll(relatives(-1, mark)))
			}
			time.Sleep(5 * time.Millisecond)
		}
		if left := scratch(t); len(left) > 0 {
			t.Errorf("%s: left in the temporary directory: %v", way, left)
		}
	}
}

// scratch lists what is in the temporary directory.
func scratch(t *testing.T) (names []string) {
	entries, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "tqst") {
			names = append(names, e.Name())
		}
	}
	return names
}
