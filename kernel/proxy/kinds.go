package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"
)

// FaultKind is one way in which a request ends without the worker's whole
// answer. The log, the X-TQ-Error header and the metrics use the same name.
type FaultKind struct {
	Name   string
	Status int    // of the proxy's answer; 0: there is none, since the client has left or the answer has begun
	Means  string // what has happened
	Key    string // of the configuration, that sets the limit; "": there is none
}

// faultKinds has every kind of fault.go. The keys are those of the kernel that
// passes the limits on; a page can have its own value of those below
// workers.default.
var faultKinds = [...]FaultKind{
	{kindBadRequest, http.StatusBadRequest, "the request is malformed or ambiguous", ""},
	{kindMethod, http.StatusMethodNotAllowed, "CONNECT is not served", ""},
	{kindRouteNotFound, http.StatusNotFound, "no page is there, or it was removed", ""},
	{kindReadTimeout, http.StatusRequestTimeout, "the client stopped sending its request", "server.read_timeout_seconds"},
	{kindClientClosed, 0, "the client went away", ""},
	{kindDial, http.StatusBadGateway, "the worker takes no connections, and no other came", ""},
	{kindWorkerClosed, http.StatusBadGateway, "the worker closed the connection", ""},
	{kindWorkerError, http.StatusBadGateway, "the worker's answer is not HTTP", ""},
	{kindBadFraming, http.StatusBadGateway, "it is ambiguous where the worker's answer ends", ""},
	{kindBadUpgrade, http.StatusBadGateway, "the worker switched to a protocol that was not asked for", ""},
	{kindHoldTimeout, http.StatusServiceUnavailable, "no worker got ready in time", "workers.hold_timeout_ms"},
	{kindHoldFull, http.StatusServiceUnavailable, "too many requests wait for a worker already", "workers.hold_requests"},
	{"queue_timeout", http.StatusServiceUnavailable, "no worker had room in time", "workers.default.queue_timeout_ms"},
	{"queue_full", http.StatusServiceUnavailable, "too many requests wait for room already", "workers.default.queue_requests"},
	{kindNoWorker, http.StatusServiceUnavailable, "there is no worker, and none will come soon", ""},
	{kindProxyLimit, http.StatusServiceUnavailable, "the server is out of file descriptors or ports", ""},
	{kindResponseTimeout, http.StatusGatewayTimeout, "the worker did not begin its answer in time", "workers.default.write_timeout_seconds"},
	{kindStreamIdle, 0, "the worker stopped in the midst of its answer", "workers.default.stream_idle_timeout_seconds"},
	{kindWriteTimeout, 0, "the client stopped reading the answer", "server.write_timeout_seconds"},
}

// FaultKinds lists every kind there is.
func FaultKinds() []FaultKind { return slices.Clone(faultKinds[:]) }

// kindIndex finds a kind in faultKinds; one that is not there is len(faultKinds).
func kindIndex(name string) int {
	for i := range faultKinds {
		if faultKinds[i].Name == name {
			return i
		}
	}
	return len(faultKinds)
}

// detail says more than the kind: the cause, and the key that sets the limit.
func (f *fault) detail() string {
	key, text := "", ""
	if i := kindIndex(f.kind); i < len(faultKinds) && faultKinds[i].Key != "" {
		text, key = faultKinds[i].Means, " ("+faultKinds[i].Key+")"
	}
	if f.cause != nil {
		text = f.cause.Error()
	}
	return text + key
}

// late says which limit was passed, in place of the "i/o timeout" of a deadline
// of ours. Another error it leaves alone, such as that of a system that has
// given a connection up.
func late(err error, what string, limit time.Duration) error {
	if limit <= 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%s for %v", what, limit)
}
