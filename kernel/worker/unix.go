package worker

import (
	"fmt"
	"io/fs"
	"os"
)

// deafSocket is what somebody is told whose program does not listen on its socket.
const deafSocket = "workers.endpoint is unix for this page, so it has to listen on the socket in TQ_SOCKET, as sdk/worker of this version does: " +
	"build it with that, or set endpoint: tcp for its path in workers.paths"

// duty is what a page has to do that is not ready in time.
func (w *Worker) duty() string {
	switch {
	case w.spec.Socket == "":
		return "a page has to listen on 127.0.0.1 at the port in TQ_PORT and to answer GET /health with 200"
	case w.hasSocket():
		return "a page has to answer GET /health with 200 on the socket in TQ_SOCKET"
	}
	return deafSocket
}

// missedPort is what may be the matter with a program that has ended, "" if that is not it.
func (w *Worker) missedPort() string {
	if w.spec.Socket == "" || w.hasSocket() {
		return ""
	}
	return " (if it missed TQ_PORT: " + deafSocket + ")"
}

// guardSocket checks that a worker which says that it is ready has its socket, and closes that to other users.
func (w *Worker) guardSocket() error {
	if w.spec.Socket == "" {
		return nil
	}
	if !w.hasSocket() {
		return &NotReadyError{w.spec.ID, "it says that it is ready, but nothing listens on " + w.spec.Socket + ": " + deafSocket, w.Tail(), fs.ErrNotExist}
	}
	if err := os.Chmod(w.spec.Socket, 0o600); err != nil {
		return &NotReadyError{w.spec.ID, fmt.Sprintf("close its socket to other users: %v", err), w.Tail(), err}
	}
	return nil
}

func (w *Worker) hasSocket() bool {
	info, err := os.Lstat(w.spec.Socket)
	return err == nil && info.Mode().Type() == fs.ModeSocket
}
