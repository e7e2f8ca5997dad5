package spool

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

func texts(recs []Record) string {
	var out []string
	for _, r := range recs {
		out = append(out, string(r.Text))
	}
	return strings.Join(out, " ")
}

func TestRecent(t *testing.T) {
	s := open(t, Options{})
	at := time.Now()
	for i, stream := range []string{"a", "b", "a", "b", "a"} {
		h := header(stream)
		h.File = "" // not stored
		s.Append(h, sdk.Line{Time: at.Add(time.Duration(i)), Text: strconv.AppendInt(nil, int64(i), 10)})
	}
	for want, got := range map[string][]Record{
		"0 2 4":     s.Recent("a", 10),
		"2 4 ":      s.Recent("a", 2),
		"0 1 2 3 4": s.Recent("", 0),
		"3 4":       s.Recent("", 2),
		"":          s.Recent("c", 10),
	} {
		if texts(got) != strings.TrimSpace(want) {
			t.Errorf("got %q, want %q", texts(got), want)
		}
	}
	if st := s.Stats(); st.Lines != 0 {
		t.Errorf("lines without a file wait: %+v", st)
	}
	numbered(s, "a", 0, 3*recentLimit)
	if got := s.Recent("a", 0); len(got) != recentLimit || !strings.HasPrefix(string(got[recentLimit-1].Text), "2999 ") {
		t.Errorf("%d lines are kept", len(got))
	}
	for range 10 {
		s.Append(header("a"), line(strings.Repeat("x", recentBytes/4)))
	}
	if got := s.Recent("a", 0); len(got) != 4 {
		t.Errorf("%d long lines are kept, want 4", len(got))
	}
}

func TestForgetsTheLongestIdleStream(t *testing.T) {
	s := open(t, Options{})
	for i := range streamLimit + 10 {
		s.Append(Header{Stream: fmt.Sprint(i)}, sdk.Line{Time: time.Unix(int64(i), 0)})
	}
	if len(s.streams) != streamLimit || len(s.Recent("9", 0)) != 0 || len(s.Recent("10", 0)) != 1 {
		t.Errorf("%d streams are kept", len(s.streams))
	}
}

func TestFollow(t *testing.T) {
	s := open(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	one, all := s.Follow(ctx, "a"), s.Follow(ctx, "")
	s.Append(header("b"), line("1"))
	s.Append(header("a"), line("2"))
	if r := <-one; string(r.Text) != "2" || r.Stream != "a" || r.Worker != "w1" {
		t.Errorf("follower of a got %+v", r)
	}
	if a, b := <-all, <-all; string(a.Text)+string(b.Text) != "12" {
		t.Errorf("follower of all got %s and %s", a.Text, b.Text)
	}
	cancel()
	for _, lines := range []<-chan Record{one, all} {
		if _, ok := <-lines; ok {
			t.Error("a line after the end")
		}
	}
}

func TestSlowFollowerLosesLinesAndHearsOfIt(t *testing.T) {
	s := open(t, Options{})
	lines := s.Follow(t.Context(), "a")
	numbered(s, "a", 0, followLimit+7)
	if lost := s.Stats().FollowersLost; lost != 7 {
		t.Errorf("%d lines are counted as lost, want 7", lost)
	}
	for range followLimit {
		<-lines
	}
	numbered(s, "a", 5000, 5001)
	if r := <-lines; r.Source != sdk.Kernel || !strings.HasPrefix(string(r.Text), "7 lines are left out") {
		t.Errorf("instead of the lost lines comes %q", r.Text)
	}
	if r := <-lines; !strings.HasPrefix(string(r.Text), "5000 ") {
		t.Errorf("then comes %q", r.Text)
	}
}
