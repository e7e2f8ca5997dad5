package dev

import (
	"net/http"
	"slices"
	"testing"
)

func TestPermit(t *testing.T) {
	const own = "127.0.0.1:8080" + Prefix
	for in, c := range map[string]struct{ want, nonce string }{
		"default-src 'self'":                             {"default-src 'self'", ""},
		"img-src *":                                      {"img-src *", ""},
		"default-src 'none'; style-src 'self'":           {"default-src 'none'; style-src 'self'; script-src " + own + "; connect-src " + own, ""},
		"script-src 'nonce-abc'":                         {"script-src 'nonce-abc' " + own, "abc"},
		"default-src https:; script-src 'nonce-a1'":      {"default-src https:; script-src 'nonce-a1' " + own + "; connect-src https: " + own, "a1"},
		"script-src 'nonce-n' 'strict-dynamic'":          {"script-src 'nonce-n' 'strict-dynamic' " + own, "n"},
		"SCRIPT-SRC 'NONE'; connect-src 'self'":          {"SCRIPT-SRC " + own + "; connect-src 'self'", ""},
		"script-src 'self'; worker-src 'none'":           {"script-src 'self'; worker-src " + own, ""},
		"script-src-elem x.example; child-src y.example": {"script-src-elem x.example " + own + "; child-src y.example " + own, ""},
		"sandbox allow-scripts allow-same-origin":        {"sandbox allow-scripts allow-same-origin", ""},
	} {
		head := http.Header{policyHeader: {in}}
		nonce, ok := permit(head, own)
		if got := head.Get(policyHeader); !ok || got != c.want || nonce != c.nonce {
			t.Errorf("%s\ngives %s, nonce %q, %v\nwant  %s, nonce %q", in, got, nonce, ok, c.want, c.nonce)
		}
	}
	for _, in := range []string{"sandbox", "sandbox allow-scripts", "script-src 'strict-dynamic' 'sha256-x'", "default-src 'self', sandbox"} {
		head := http.Header{policyHeader: {"default-src 'none'", in}}
		if _, ok := permit(head, own); ok || !slices.Equal(head[policyHeader], []string{"default-src 'none'", in}) {
			t.Errorf("%s is permitted: %v", in, head)
		}
	}
	head := http.Header{policyHeader: {"default-src 'self', script-src 'none'", "script-src 'nonce-b'"}}
	want := []string{"default-src 'self', script-src " + own, "script-src 'nonce-b' " + own}
	if nonce, ok := permit(head, own); !ok || nonce != "b" || !slices.Equal(head[policyHeader], want) {
		t.Errorf("several policies: %q, %v, %q", nonce, ok, head[policyHeader])
	}
	if head := (http.Header{}); true {
		if _, ok := permit(head, own); !ok || len(head) != 0 {
			t.Errorf("without a policy: %v, %v", ok, head)
		}
	}
}

func TestOwnSource(t *testing.T) {
	for host, want := range map[string]string{"localhost:8080": "localhost:8080" + Prefix, "[::1]:8080": "'self'", "x; script-src *": "'self'"} {
		if got := ownSource(host); got != want {
			t.Errorf("%s: %s", host, got)
		}
	}
}
