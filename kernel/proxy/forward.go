package proxy

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// forwarder carries one request to one worker and the answer back. [uplink] is
// the one in use; tests compare it with another.
type forwarder interface {
	// forward sends x.in to e and copies the answer to x.out. It returns nil
	// once the answer has been copied whole or the upgraded connection has
	// ended. An error without x.out.started means that the client has got
	// nothing yet; a *dialError that the worker has not either; a *repeatError
	// that another worker may have the request, once.
	forward(x *exchange, e *Endpoint) error
}

// repeatError is the end of a connection on which the request was lost.
type repeatError struct{ error }

func (e *repeatError) Unwrap() error { return e.error }

// isDisconnect reports whether err is a connection that the worker, or
// Endpoint.Close, has ended.
func isDisconnect(err error) bool {
	for _, end := range [...]error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}
