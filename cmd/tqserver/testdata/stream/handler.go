// A page that does everything HTTP/1.1 can do to a proxy.
package main

import (
	"bufio"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const release = "one"

// handler serves below a route.
func handler(route string) http.Handler {
	mux := http.NewServeMux()
	for path, h := range map[string]http.HandlerFunc{
		"/ws": socket, "/sse": events, "/sum": sum, "/data": data, "/endless": endless, "/hints": hints, "/status": status,
		"/headers": headers, "/refuse": refuse, "/abort": abort,
	} {
		mux.HandleFunc(route+path, h)
	}
	mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, release) })
	return mux
}

func number(r *http.Request, name string) int {
	n, _ := strconv.Atoi(r.URL.Query().Get(name))
	return n
}

// end is closed by a WebSocket that says so, and ends all events.
var (
	end     = make(chan struct{})
	endOnce sync.Once
)

// socket is a WebSocket that answers each text with the release and the text, until the client closes.
func socket(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	accept := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(accept[:]))
	for {
		if rw.Flush() != nil {
			return
		}
		opcode, payload, err := readFrame(rw.Reader)
		if err != nil {
			return
		}
		if opcode == 8 {
			writeFrame(rw.Writer, 8, payload)
			rw.Flush()
			return
		}
		if string(payload) == "end" {
			endOnce.Do(func() { close(end) })
		}
		writeFrame(rw.Writer, opcode, append([]byte(release+":"), payload...))
	}
}

// readFrame takes a masked frame, as RFC 6455 section 5.2 has it, of at most 65,535 bytes.
func readFrame(r *bufio.Reader) (opcode byte, payload []byte, err error) {
	head := make([]byte, 2)
	if _, err = io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	n := int(head[1] & 0x7f)
	if n == 126 {
		long := make([]byte, 2)
		if _, err = io.ReadFull(r, long); err != nil {
			return 0, nil, err
		}
		n = int(long[0])<<8 | int(long[1])
	}
	body := make([]byte, 4+n)
	if _, err = io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	for i := range body[4:] {
		body[4+i] ^= body[i%4]
	}
	return head[0] & 0xf, body[4:], nil
}

func writeFrame(w *bufio.Writer, opcode byte, payload []byte) {
	head := []byte{0x80 | opcode, byte(len(payload))}
	if len(payload) > 125 {
		head = []byte{0x80 | opcode, 126, byte(len(payload) >> 8), byte(len(payload))}
	}
	w.Write(head)
	w.Write(payload)
}

// events sends ?n= events, ?gap= milliseconds apart; without n they go on until the client goes
// or a WebSocket ends them.
func events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	n, gap := number(r, "n"), time.Duration(number(r, "gap"))*time.Millisecond
	for i := 0; n == 0 || i < n; i++ {
		if i > 0 {
			select {
			case <-time.After(gap):
			case <-end:
				return
			case <-r.Context().Done():
				return
			}
		}
		fmt.Fprintf(w, "data: %s %d\n\n", release, i)
		http.NewResponseController(w).Flush()
	}
}

// sum reads a body of any length and answers with its length and hash, and its trailers as trailers.
func sum(w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	n, err := io.Copy(hash, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for name, values := range r.Trailer {
		w.Header()[http.TrailerPrefix+"Echo-"+name] = values
	}
	fmt.Fprintf(w, "%d %x\n", n, hash.Sum(nil))
}

// data sends ?n= bytes, as far as ?seed= decides them, of a length that it does not tell, and their hash as a trailer.
func data(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Trailer", "X-Sum")
	hash := sha256.New()
	source := rand.NewChaCha8([32]byte{byte(number(r, "seed"))})
	if _, err := io.CopyN(io.MultiWriter(w, hash), source, int64(number(r, "n"))); err == nil {
		w.Header().Set("X-Sum", hex.EncodeToString(hash.Sum(nil)))
	}
}

// endless sends until nobody takes it any more.
func endless(w http.ResponseWriter, r *http.Request) {
	for block := make([]byte, 64<<10); ; {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

func hints(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Link", "</style.css>; rel=preload; as=style")
	w.WriteHeader(http.StatusEarlyHints)
	w.Header().Del("Link")
	fmt.Fprintln(w, "after the hints")
}

// status answers after ?ms= milliseconds with ?code=; a 200 has a body.
func status(w http.ResponseWriter, r *http.Request) {
	code := number(r, "code")
	select {
	case <-time.After(time.Duration(number(r, "ms")) * time.Millisecond):
	case <-r.Context().Done():
		return
	}
	w.Header().Set("Etag", `"x"`)
	w.WriteHeader(code)
	if code == http.StatusOK {
		fmt.Fprintln(w, "method", r.Method)
	}
}

func headers(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Request-Id", "the page must not choose it")
	json.NewEncoder(w).Encode(map[string]any{"host": r.Host, "headers": r.Header})
}

// refuse answers before it has read the body.
func refuse(w http.ResponseWriter, r *http.Request) {
	http.Error(w, "not wanted", http.StatusRequestEntityTooLarge)
}

// abort ends the connection without an answer.
func abort(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
