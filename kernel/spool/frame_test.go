package spool

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

func TestFrame(t *testing.T) {
	a, b := &Header{"s", "/f", "p", "r", "w"}, &Header{Stream: "s"}
	recs := []record{
		{a, sdk.Line{Time: time.Unix(1, 2), Source: sdk.Stderr, Text: []byte("x\x00\xff")}},
		{a, sdk.Line{Time: time.Unix(-1, 0), Source: sdk.Kernel, Text: nil}},
		{b, sdk.Line{Time: time.Unix(3, 0), Source: 77, Text: []byte("z")}},
	}
	number, stream, got, err := decode(encode(7, "s", recs))
	if err != nil || number != 7 || stream != "s" || len(got) != len(recs) {
		t.Fatal(number, stream, got, err)
	}
	for i := range recs {
		if *got[i].header != *recs[i].header || !got[i].line.Time.Equal(recs[i].line.Time) ||
			got[i].line.Source != recs[i].line.Source || !bytes.Equal(got[i].line.Text, recs[i].line.Text) {
			t.Errorf("line %d: %+v, want %+v", i, got[i], recs[i])
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(7, "s", []record{{&Header{"s", "/f", "p", "r", "w"}, sdk.Line{Time: time.Unix(1, 2), Text: []byte("x")}}}), true)
	f.Fuzz(func(t *testing.T, frame []byte, sum bool) {
		if sum && len(frame) >= headSize { // get past the checksum
			binary.LittleEndian.PutUint32(frame, magic)
			binary.LittleEndian.PutUint32(frame[4:], uint32(len(frame)-headSize))
			binary.LittleEndian.PutUint32(frame[8:], crc32.Checksum(frame[headSize:], castagnoli))
		}
		number, stream, recs, err := decode(frame)
		if err != nil {
			return
		}
		_, again, recs2, err := decode(encode(number, stream, recs))
		if err != nil || again != stream || len(recs2) != len(recs) {
			t.Errorf("%q, %d lines become %q, %d lines, %v", stream, len(recs), again, len(recs2), err)
		}
	})
}
