package proxy

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestLaneAnswersWhatHasComeWhenItStops: a request that waits to be read, and one that is for the server behind it.
func TestLaneAnswersWhatHasComeWhenItStops(t *testing.T) {
	for _, c := range []struct{ name, request, want string }{
		{"served", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "404"},
		{"handed over", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "503"},
		{"refused", "GET / HTTP/1.1\nHost: h\n\n", "503"},
	} {
		t.Run(c.name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			defer listener.Close()
			client, err := net.Dial("tcp", listener.Addr().String())
			must(t, err)
			defer client.Close()
			must(t, client.SetDeadline(time.Now().Add(time.Minute)))
			accepted, err := listener.Accept()
			must(t, err)
			o := laneTimeouts(time.Minute, time.Minute)
			o.HandOver = func(c net.Conn, _ []byte) { c.Close() }
			l := New(Options{}).NewLane(o)
			conn, err := newLaneConn(l, accepted.(*net.TCPConn))
			if err != nil || !l.add(conn) {
				t.Fatal("no connection: ", err)
			}
			_, err = io.WriteString(client, c.request)
			must(t, err)
			eventually(t, "the request has come", conn.pending)
			empty := l.stop()
			go func() {
				defer l.remove(conn)
				conn.serve()
			}()
			all, err := io.ReadAll(client)
			if got := string(all); err != nil || !strings.HasPrefix(got, "HTTP/1.1 "+c.want) || !strings.Contains(got, "Connection: close\r\n") {
				t.Errorf("%q, %v", got, err)
			}
			client.Close()
			<-empty
		})
	}
}

// TestAnswerOfBeforeSaysThatItIsTheLast: the lane was told to stop while the worker thought.
func TestAnswerOfBeforeSaysThatItIsTheLast(t *testing.T) {
	s := laneSite(t)
	begun, release := make(chan bool), make(chan bool)
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		begun <- true
		<-release
		io.WriteString(w, "hi")
	})
	_, r := s.dial("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	<-begun
	empty := s.lane.stop()
	close(release)
	res, err := http.ReadResponse(r, nil)
	must(t, err)
	body, err := io.ReadAll(res.Body)
	must(t, err)
	if string(body) != "hi" || !res.Close {
		t.Errorf("%q, last: %v", body, res.Close)
	}
	<-empty
}
