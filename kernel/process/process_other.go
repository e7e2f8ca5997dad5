//go:build !linux

package process

import (
	"errors"
	"os/exec"
	"syscall"
)

// Members is not implemented on this platform: it returns [errors.ErrUnsupported].
func Members(int) ([]int, error) { return nil, errors.ErrUnsupported }

func hasLiveMember(int) bool { return true }

// keepDescriptors does nothing: it would take a call for each possible one.
func keepDescriptors() {}

// dieWithParent does nothing: no parent-death signal here.
func dieWithParent(*syscall.SysProcAttr) {}

func wait(cmd *exec.Cmd, exited func()) error {
	err := cmd.Wait()
	exited()
	return err
}
