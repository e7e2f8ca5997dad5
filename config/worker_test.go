package config

import (
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"
)

const overlapping = `
workers:
  default:
    max_requests: 1
    go_mem_limit: 1GiB
    env: {A: default, B: default, C: default}
  paths:
    /api/users/admin: {max_requests: 4, log_file: "logs/admin.log"}
    /api: {max_requests: 2, go_mem_limit: "", log_file: ~, env: {A: api, B: api}}
    /: {idle_timeout_seconds: 7, env: {D: ~}}
    /api/users: {max_requests: 3, env: {A: users, C: ~}}
`

func TestForMerges(t *testing.T) {
	w := parse(t, overlapping).Workers
	if got, want := paths(w), []string{"/", "/api", "/api/users", "/api/users/admin"}; !slices.Equal(got, want) {
		t.Errorf("paths are %q, want %q", got, want)
	}
	const usual = "logs/{path}/worker_{date}.log"
	tests := []struct {
		route    string
		requests int
		memory   string
		log      string
		env      map[string]string
	}{
		{"/", 1, "1GiB", usual, map[string]string{"A": "default", "B": "default", "C": "default", "D": "(inherit)"}},
		{"/apix", 1, "1GiB", usual, map[string]string{"A": "default", "B": "default", "C": "default", "D": "(inherit)"}},
		{"/api", 2, "", "", map[string]string{"A": "api", "B": "api", "C": "default", "D": "(inherit)"}},
		{"/api/x", 2, "", "", map[string]string{"A": "api", "B": "api", "C": "default", "D": "(inherit)"}},
		{"/api/usersx", 2, "", "", map[string]string{"A": "api", "B": "api", "C": "default", "D": "(inherit)"}},
		{"/api/users", 3, "", "", map[string]string{"A": "users", "B": "api", "C": "(inherit)", "D": "(inherit)"}},
		{"/api/users/admin/x", 4, "", "logs/admin.log", map[string]string{"A": "users", "B": "api", "C": "(inherit)", "D": "(inherit)"}},
	}
	for _, test := range tests {
		got := w.For(test.route)
		if got.MaxRequests != test.requests || got.GoMemLimit != test.memory || got.LogFile != test.log {
			t.Errorf("For(%s) has %d, %q, %q, want %d, %q, %q", test.route,
				got.MaxRequests, got.GoMemLimit, got.LogFile, test.requests, test.memory, test.log)
		}
		if env := plain(got.Env); !maps.Equal(env, test.env) {
			t.Errorf("For(%s) has env %v, want %v", test.route, env, test.env)
		}
		if got.IdleTimeout != 7*time.Second || got.ReadTimeout != 30*time.Second || got.GoMaxProcs != 1 {
			t.Errorf("For(%s) has idle %v, read %v, procs %d, want 7s from / and the defaults", test.route, got.IdleTimeout, got.ReadTimeout, got.GoMaxProcs)
		}
	}
}

func TestForWithoutRootOverride(t *testing.T) {
	w := parse(t, "workers: {paths: {/api: {max_requests: 2}}}").Workers
	if got := w.For("/apix"); !reflect.DeepEqual(got, w.Default) {
		t.Errorf("For(/apix) is %+v, want the default", got)
	}
}

func TestForReturnsACopy(t *testing.T) {
	w := parse(t, overlapping).Workers
	clear(w.For("/api").Env)
	if got := len(w.For("/api").Env); got != 4 {
		t.Errorf("after clearing the map of one result the next has %d entries, want 4", got)
	}
}

// Every key that a worker takes must also be merged.
func TestForMergesEveryKey(t *testing.T) {
	values := map[string]string{
		"instances": "7-77", "max_in_flight": "77", "queue_timeout_ms": "77", "queue_requests": "77", "slow_start_ms": "77",
		"go_max_procs": "77", "max_requests": "77", "go_mem_limit": "77KiB", "endpoint": "unix", "log_file": "77.log", "env": "{SEVEN: 7}",
		"read_timeout_seconds": "77", "write_timeout_seconds": "77", "idle_timeout_seconds": "77", "stream_idle_timeout_seconds": "77",
	}
	for _, key := range (&Worker{}).fields().names() {
		inDefault := parse(t, "workers: {default: {"+key+": "+values[key]+"}}").Workers.Default
		inPath := parse(t, "workers: {paths: {/x: {"+key+": "+values[key]+"}}}").Workers.For("/x")
		if reflect.DeepEqual(inDefault, Default().Workers.Default) {
			t.Errorf("%s: the value for the test is the default", key)
		}
		if !reflect.DeepEqual(inPath, inDefault) {
			t.Errorf("%s: from a path %+v, from default %+v", key, inPath, inDefault)
		}
	}
}

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func paths(w Workers) []string {
	var out []string
	for _, o := range w.Paths {
		out = append(out, o.Path)
	}
	return out
}

func plain(env map[string]*string) map[string]string {
	out := map[string]string{}
	for name, value := range env {
		out[name] = "(inherit)"
		if value != nil {
			out[name] = *value
		}
	}
	return out
}
