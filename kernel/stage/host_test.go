package stage

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tqserver/tqserver/kernel/process"
)

// startHost starts a process that runs one plugin, and gives both numbers.
func startHost(b *bench) (host *exec.Cmd, plugin int) {
	b.Helper()
	host = exec.Command("/proc/self/exe")
	host.Env = append(os.Environ(), modeVar+"=host", "RUN="+b.options.RuntimeDir, "GORACE=atexit_sleep_ms=0")
	host.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	host.Stderr = os.Stderr
	out, err := host.StdoutPipe()
	if err == nil {
		err = host.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { host.Process.Kill(); host.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		plugin, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { process.KillGroup(plugin, syscall.SIGKILL) })
	return host, plugin
}

func TestPluginDiesWithItsHost(t *testing.T) {
	for _, frozen := range []bool{false, true} {
		t.Run(fmt.Sprintf("frozen=%v", frozen), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			host, plugin := startHost(b)
			if frozen {
				b.freeze(plugin)
			}
			host.Process.Kill()
			host.Wait()
			b.gone(time.Second, plugin)
			if err := Sweep(b.options.RuntimeDir); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTerminalsSignalsDoNotReachPlugins(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	host, plugin := startHost(b)
	group, err := syscall.Getpgid(plugin)
	if err != nil || group != plugin {
		t.Errorf("the plugin %d is in group %d, %v", plugin, group, err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		syscall.Kill(-host.Process.Pid, sig) // as a terminal does
		syscall.Kill(plugin, sig)            // as a careless service manager does
	}
	// Signals are taken in order: when this one has arrived, the others have.
	b.freeze(plugin)
	syscall.Kill(plugin, syscall.SIGCONT)
	if !process.GroupAlive(plugin) {
		t.Error("the plugin is gone")
	}
	host.Process.Kill()
	host.Wait()
	b.gone(time.Second, plugin)
	Sweep(b.options.RuntimeDir)
}
