//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the command lines in testdata/script as a user would type them. Besides what testscript has, they
// use: expand FROM TO, which fills in $PORT, $FIRST and $LAST; serving DIR, which waits for a site's server;
// answer PATH TEXT, which waits for an answer with a text in it; json, which checks that the last command printed JSON.
func TestScripts(t *testing.T) {
	bin := t.TempDir()
	wrapper := fmt.Sprintf("#!/bin/sh\nTQSERVER_TEST_BE_SERVER=1 exec %s \"$@\"\n", testBinary(t))
	if err := os.WriteFile(filepath.Join(bin, "tqserver"), []byte(wrapper), 0o755); err != nil {
		t.Fatal(err)
	}
	goEnv := goEnvironment(t, "GOCACHE", "GOMODCACHE", "GOROOT")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			pool := freeRange(t, 20)
			e.Vars = append(e.Vars, goEnv...)
			e.Vars = append(e.Vars, "PATH="+bin+":"+os.Getenv("PATH"), "GOPROXY=off", "GOFLAGS=-mod=mod", "GOTOOLCHAIN=local",
				fmt.Sprint("PORT=", freePort(t)), fmt.Sprint("FIRST=", pool[0]), fmt.Sprint("LAST=", pool[1]))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"expand": expandFile, "serving": awaitServing, "answer": awaitAnswer, "json": checkJSON,
		},
	})
}

func testBinary(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func goEnvironment(t *testing.T, names ...string) (vars []string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		t.Fatalf("go env: %v", err)
	}
	for i, value := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		vars = append(vars, names[i]+"="+value)
	}
	return vars
}

func expandFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: expand FROM TO")
	}
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o644))
}

// eventually waits until check gives nil.
func eventually(ts *testscript.TestScript, check func() error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // between two looks at a process
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v", err)
		}
	}
}

func awaitServing(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: serving DIR")
	}
	eventually(ts, func() error {
		if err := ts.Exec("tqserver", "-C", args[0], "status", "--json"); err != nil {
			return err
		}
		var s struct{ State string }
		if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &s); err != nil || s.State != "serving" {
			return fmt.Errorf("the server is %s, %v", s.State, err)
		}
		return nil
	})
}

func awaitAnswer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: answer PATH TEXT")
	}
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	eventually(ts, func() error {
		res, err := client.Get("http://127.0.0.1:" + ts.Getenv("PORT") + args[0])
		if err != nil {
			return err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err == nil && !strings.Contains(string(body), args[1]) {
			err = fmt.Errorf("%s answers %d %.200q", args[0], res.StatusCode, body)
		}
		return err
	})
}

// checkJSON takes one value, or one a line.
func checkJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: json")
	}
	in := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	for n := 0; ; n++ {
		var value any
		err := in.Decode(&value)
		if errors.Is(err, io.EOF) && n > 0 {
			return
		}
		if err != nil {
			ts.Fatalf("value %d of what was printed is no JSON: %v", n+1, err)
		}
	}
}
