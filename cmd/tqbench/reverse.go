//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	reverseTuned = "ReverseProxy, tuned"
	reverseNaive = "ReverseProxy, naive"
)

func reversePeers() []*peer {
	return []*peer{
		{name: reverseTuned, about: "net/http/httputil with Rewrite, a large pool, pooled buffers, no compression", start: startReverse("tuned")},
		{name: reverseNaive, about: "net/http/httputil.NewSingleHostReverseProxy and http.DefaultTransport", start: startReverse("naive")},
	}
}

func startReverse(kind string) func(context.Context, *peer, setup) (*server, error) {
	return func(ctx context.Context, p *peer, s setup) (*server, error) {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		c := roleCommand("reverse", kind, local(port), s.worker, s.path("access.log"), strconv.Itoa(s.routes))
		c.env = append(c.env, fmt.Sprintf("GOMAXPROCS=%d", s.procs))
		return launch(ctx, p, s, local(port), c)
	}
}

// playReverse is the process of such a proxy. It serves until it is killed.
func playReverse(kind, addr, worker, logFile string, routes int) error {
	target := &url.URL{Scheme: "http", Host: worker}
	proxy := httputil.NewSingleHostReverseProxy(target)
	if kind == "tuned" {
		proxy = tunedProxy(target)
	}
	proxy.ErrorLog = log.New(os.Stderr, "", 0)
	f, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	access := &accessLog{out: bufio.NewWriterSize(f, 32<<10)}
	go access.flushEach(time.Second)
	backends := map[string]http.Handler{"": proxy}
	for _, prefix := range (setup{routes: routes}).prefixes() {
		backends[prefix] = proxy
	}
	server := &http.Server{Handler: access.wrap(route(backends)), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute}
	return server.Serve(l)
}

func tunedProxy(target *url.URL) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		BufferPool: &bufferPool{},
		Transport: &http.Transport{MaxIdleConns: 0, MaxIdleConnsPerHost: 1024, IdleConnTimeout: 90 * time.Second,
			DisableCompression: true},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
	}
}

// bufferPool keeps the buffers that bodies are copied with.
type bufferPool struct{ pool sync.Pool }

var _ httputil.BufferPool = (*bufferPool)(nil)

func (b *bufferPool) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *bufferPool) Put(p []byte) { b.pool.Put(&p) }

// route looks the first segment of the path up.
func route(backends map[string]http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.URL.Path) > 1 {
			if end := strings.IndexByte(r.URL.Path[1:], '/'); end >= 0 {
				if h, ok := backends[r.URL.Path[:end+1]]; ok {
					h.ServeHTTP(w, r)
					return
				}
			}
		}
		backends[""].ServeHTTP(w, r)
	})
}

// accessLog writes a line for each request.
type accessLog struct {
	mu  sync.Mutex
	out *bufio.Writer
}

func (a *accessLog) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		noted := &notedWriter{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(noted, r)
		a.mu.Lock()
		defer a.mu.Unlock()
		fmt.Fprintf(a.out, "%s - - [%s] %q %d %d %v\n", r.RemoteAddr, begin.Format(time.RFC3339), r.Method+" "+r.URL.Path, noted.status, noted.size, time.Since(begin))
	})
}

func (a *accessLog) flushEach(pause time.Duration) {
	for range time.Tick(pause) {
		a.mu.Lock()
		_ = a.out.Flush() // the writer keeps the error
		a.mu.Unlock()
	}
}

// notedWriter notes what is logged of an answer.
type notedWriter struct {
	http.ResponseWriter
	status int
	size   int64
}

func (w *notedWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *notedWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.size += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach what is below, which the proxy flushes with.
func (w *notedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
