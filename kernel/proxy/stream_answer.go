package proxy

import (
	"net/http"
	"slices"
	"strings"
)

// head gives net/http what the header of a worker's answer says to the client.
func (w *response) head(a *answer, bodiless bool) {
	h := w.Header()
	values := addFields(h, a, 2)
	if a.saysLength(w.exchange.method, bodiless) {
		values = setField(h, values, "Content-Length", a.digits)
	}
	setField(h, values, requestIDHeader, w.exchange.id)
	if a.chunked && !bodiless {
		if w.promised = announced(a.fields); len(w.promised) > 0 {
			h["Trailer"] = []string{strings.Join(w.promised, ", ")}
		}
	}
	w.WriteHeader(a.status)
}

// addFields adds the end-to-end fields of an answer to h. It returns room for
// more values.
func addFields(h http.Header, a *answer, more int) []string {
	values := make([]string, 0, len(a.fields)+more) // one allocation for all
	listed := a.listed()
	for _, f := range a.fields {
		if isHopByHop(f.name) || isOurs(f.name) || listed != nil && slices.Contains(listed, f.name) {
			continue
		}
		if said, ok := h[f.name]; ok {
			h[f.name] = append(said, f.value)
			continue
		}
		values = setField(h, values, f.name, f.value)
	}
	return values
}

func setField(h http.Header, values []string, name, value string) []string {
	values = append(values, value)
	last := len(values)
	h[name] = values[last-1 : last : last]
	return values
}

func (w *response) hint(a *answer) {
	h := w.Header()
	addFields(h, a, 0)
	w.WriteHeader(a.status)
	for _, f := range a.fields {
		delete(h, f.name)
	}
}

// trailers has net/http send the trailers: under their names if they were
// announced, else as its TrailerPrefix wants it.
func (w *response) trailers(fields []field) {
	h := w.Header()
	for _, name := range w.promised {
		delete(h, name) // a field of the header, which net/http has passed on, is no trailer
	}
	if len(fields) == 0 {
		return
	}
	w.flush() // or net/http counts a short body, and has no place for trailers
	for _, f := range fields {
		if !isTrailer(f.name) {
			continue
		}
		name := f.name
		if !slices.Contains(w.promised, name) {
			name = http.TrailerPrefix + name
		}
		h[name] = append(h[name], f.value)
	}
}

func (w *response) refuse(status int, fields []field, body []byte) {
	h := w.Header()
	clear(h) // what a forwarder left there
	for _, f := range fields {
		h.Set(f.name, f.value)
	}
	w.WriteHeader(status)
	if len(body) > 0 {
		w.Write(body) // an error here is the client's, and is noted
	}
}
