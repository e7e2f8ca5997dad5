package dev

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
	"strconv"
)

//go:embed apology.html
var apologyHTML string

var apology = template.Must(template.New("apology").Parse(apologyHTML))

// apologyPolicy lets nothing run that does not come from here, whatever the texts on the page are.
const apologyPolicy = "default-src 'none'; script-src 'self'; worker-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

// reasons say what the proxy's word for a fault means.
var reasons = map[string]string{
	"dial":             "The worker of this page takes no connections.",
	"worker_closed":    "The worker ended the connection before it had answered: it has panicked, or ended.",
	"worker_error":     "What the worker answered is not HTTP.",
	"hold_timeout":     "No worker of this page was ready in time.",
	"hold_full":        "Too many requests wait for this page already.",
	"no_worker":        "There is no worker of this page.",
	"response_timeout": "The worker has not answered in time.",
}

// apologise answers in place of an error of the proxy with a document that tells what is wrong, and that is replaced
// as soon as the page works.
func (h *Hub) apologise(w http.ResponseWriter, e *entry, status int, kind string) {
	now, _ := h.state(e.Name) // what is wrong; e is what the document is of
	until := ""
	if status == http.StatusServiceUnavailable {
		until = "serving"
	}
	reason, ok := reasons[kind]
	if !ok {
		reason = "The request failed."
	}
	var doc bytes.Buffer
	err := apology.Execute(&doc, map[string]any{
		"Tag":  template.HTML(e.tag("", until)), // escaped where it is made
		"Page": e.Name, "Route": now.Route, "Status": status, "Text": http.StatusText(status), "Kind": kind, "Reason": reason,
		"Problems": now.Problems,
	})
	if err != nil { // every field is there, and a buffer takes everything
		panic(err)
	}
	head := w.Header()
	head.Set("Content-Type", "text/html; charset=utf-8")
	head.Set(policyHeader, apologyPolicy)
	head.Set("Content-Length", strconv.Itoa(doc.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(doc.Bytes()) // the browser is gone
}
