package dev

import (
	"strings"
	"testing"
)

// places are documents with a | where the script goes.
var places = map[string]string{
	"head":               `<!doctype html><html lang="en"><head>|<title>x</title></head>`,
	"head with a >":      `<html data-x="a>b"><head data-y='>' class=z>|<title>`,
	"upper case":         "<!DOCTYPE HTML>\n<HTML>\n<HEAD>|<TITLE>",
	"comment":            `<!-- <head> --><!doctype html><!-- <html> --><html><!----><head>|x`,
	"no head":            `<!doctype html><html>|<body class="x"><p>`,
	"no html":            `<!doctype html>|<title>x</title><p>`,
	"a header":           `<!doctype html><html>|<header>x</header>`,
	"htmlx":              `|<htmlx><head>`,
	"fragment":           `|<div>x</div>`,
	"text":               "  |hello <head>",
	"byte order mark":    "\ufeff<!doctype html><head>|x",
	"xml":                `<?xml version="1.0"?><!DOCTYPE html PUBLIC "a" "b"><html><head/>|<title>`,
	"doctype alone":      `<!doctype html>|`,
	"half a head":        `<!doctype html><html>|<hea`,
	"half a comment":     `<!doctype html>|<!-- no end`,
	"half an attribute":  `|<html lang="en`,
	"a < that is no tag": `|< x`,
}

func TestPlace(t *testing.T) {
	for name, marked := range places {
		want := strings.Index(marked, "|")
		doc := strings.Replace(marked, "|", "", 1)
		if at, _ := place([]byte(doc)); at != want {
			t.Errorf("%s: at %d, want %d of %q", name, at, want, doc)
		}
		for n := range len(doc) { // what is found early must not be wrong
			if at, found := place([]byte(doc[:n])); found && at != want {
				t.Errorf("%s: of %q the place is %d, want %d", name, doc[:n], at, want)
			}
		}
	}
}

func FuzzPlace(f *testing.F) {
	for _, doc := range places {
		f.Add([]byte(doc), 3)
	}
	f.Fuzz(func(t *testing.T, doc []byte, n int) {
		at, found := place(doc)
		if at < 0 || at > len(doc) {
			t.Fatalf("place is %d of %d", at, len(doc))
		}
		if n = max(0, min(n, len(doc))); n < len(doc) {
			if early, ok := place(doc[:n]); ok && (!found || early != at) {
				t.Errorf("of %q it is %d, of %q %d (%v)", doc[:n], early, doc, at, found)
			}
		}
	})
}
