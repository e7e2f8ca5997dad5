package worker

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// readyFD is the write end of the ready pipe in the worker: the first descriptor after the standard ones.
const readyFD = 3

// inherited are the variables that a worker gets from the server's own environment, besides LC_*.
var inherited = []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"}

// environ returns the whole environment of a worker, sorted by name.
func environ(own []string, spec Spec) []string {
	vars := map[string]string{}
	for _, entry := range own {
		name, value, _ := strings.Cut(entry, "=")
		if slices.Contains(inherited, name) || strings.HasPrefix(name, "LC_") {
			vars[name] = value
		}
	}
	for _, entry := range spec.Env {
		name, value, _ := strings.Cut(entry, "=")
		if name != "" && !strings.HasPrefix(name, "TQ_") {
			vars[name] = value
		}
	}
	maps.Copy(vars, settings(spec))
	env := make([]string, 0, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, name+"="+vars[name])
	}
	return env
}

func settings(spec Spec) map[string]string {
	vars := map[string]string{
		"TQ_MAX_REQUESTS":             strconv.Itoa(spec.MaxRequests),
		"TQ_READ_TIMEOUT_SECONDS":     whole(spec.ReadTimeout, time.Second),
		"TQ_WRITE_TIMEOUT_SECONDS":    whole(spec.WriteTimeout, time.Second),
		"TQ_IDLE_TIMEOUT_SECONDS":     whole(spec.IdleTimeout, time.Second),
		"TQ_SHUTDOWN_GRACE_PERIOD_MS": whole(spec.Grace, time.Millisecond),
		"TQ_LOG_FILE":                 spec.LogFile,
		"TQ_ROUTE":                    spec.Route,
		"TQ_PAGE_DIR":                 spec.PageDir,
		"TQ_PAGE":                     spec.Page,
		"TQ_RELEASE":                  spec.Release,
		"TQ_READY_FD":                 strconv.Itoa(readyFD),
	}
	if spec.Socket != "" {
		vars["TQ_SOCKET"] = spec.Socket
	} else {
		vars["TQ_PORT"] = strconv.Itoa(spec.Port)
	}
	if spec.GoMaxProcs > 0 {
		vars["GOMAXPROCS"] = strconv.Itoa(spec.GoMaxProcs)
	}
	if spec.GoMemLimit != "" {
		vars["GOMEMLIMIT"] = spec.GoMemLimit
	}
	return vars
}

// whole counts the units in d, rounded up: a short timeout must not become 0, which means none.
func whole(d, unit time.Duration) string {
	return strconv.FormatInt(int64((d+unit-1)/unit), 10)
}
