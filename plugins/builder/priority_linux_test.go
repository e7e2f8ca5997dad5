package builder

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestBuildsGiveWay runs itself once more as a process that does.
func TestBuildsGiveWay(t *testing.T) {
	const key = "TQ_TEST_GIVE_WAY"
	if os.Getenv(key) != "" {
		giveWay()
		out, err := exec.Command("nice").Output()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("a program that it starts: %s", out)
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			id, _ := strconv.Atoi(thread.Name())
			raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, id) // 20 - nice
			t.Logf("thread: %d %v", 20-raw, err)
		}
		return
	}
	if raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err != nil || 20-raw > buildNice {
		t.Skipf("the test runs with nice value %d already, a process cannot get a lower one", 20-raw)
	}
	if _, err := exec.LookPath("nice"); err != nil {
		t.Skip("there is no nice command to ask")
	}
	again := exec.Command(os.Args[0], "-test.run=^TestBuildsGiveWay$", "-test.v")
	again.Env = append(os.Environ(), key+"=1")
	out, err := again.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text := string(out)
	if !strings.Contains(text, "a program that it starts: 10") || strings.Count(text, "thread: ") != strings.Count(text, "thread: 10 <nil>") {
		t.Errorf("want 10 everywhere:\n%s", text)
	}
}
