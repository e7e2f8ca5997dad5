package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"time"

	"github.com/tqserver/tqserver/sdk"
)

// A frame is a head of 20 bytes, little endian, and a body:
//
//	magic, size of the body, CRC-32C of the body, number of lines, number of acknowledged lines
//
// The last is overwritten in place. The body is the number of the chunk, by which those of a stream are in order, the
// name of the stream, and for each line: whether its header differs
// from the one before and that header, the source, the time in ns, the text; numbers are varints, strings carry their
// length before them.
const (
	magic    = 0x31517174 // "tqQ1"
	headSize = 20
	ackedAt  = 16
)

var (
	errDamaged = errors.New("damaged frame")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func encode(number uint64, stream string, recs []record) []byte {
	b := make([]byte, headSize, headSize+sizeOf(recs))
	b = binary.AppendUvarint(b, number)
	b = appendString(b, stream)
	var last *Header
	for _, r := range recs {
		if last != nil && *r.header == *last {
			b = append(b, 0)
		} else {
			b = append(b, 1)
			for _, s := range []string{r.header.Stream, r.header.File, r.header.Page, r.header.Release, r.header.Worker} {
				b = appendString(b, s)
			}
			last = r.header
		}
		b = binary.AppendVarint(b, int64(r.line.Source))
		b = binary.AppendVarint(b, r.line.Time.UnixNano())
		b = appendString(b, r.line.Text)
	}
	order := binary.LittleEndian
	order.PutUint32(b, magic)
	order.PutUint32(b[4:], uint32(len(b)-headSize))
	order.PutUint32(b[8:], crc32.Checksum(b[headSize:], castagnoli))
	order.PutUint32(b[12:], uint32(len(recs)))
	return b
}

func sizeOf(recs []record) int {
	n := 256
	for _, r := range recs {
		n += len(r.line.Text) + 16
	}
	return n
}

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// bodySize checks the head of a frame.
func bodySize(head []byte) (int64, error) {
	if len(head) < headSize || binary.LittleEndian.Uint32(head) != magic {
		return 0, errDamaged
	}
	return int64(binary.LittleEndian.Uint32(head[4:])), nil
}

// decode reads a whole frame. The texts of the lines are parts of it. Damage of any kind is an error.
func decode(frame []byte) (number uint64, stream string, recs []record, err error) {
	size, err := bodySize(frame)
	if err != nil {
		return 0, "", nil, err
	}
	body := frame[headSize:]
	if size != int64(len(body)) || crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(frame[8:]) {
		return 0, "", nil, errDamaged
	}
	count := int(binary.LittleEndian.Uint32(frame[12:]))
	if count > len(body) {
		return 0, "", nil, errDamaged
	}
	r := reader{b: body}
	number, stream = r.number(), string(r.text())
	recs = make([]record, 0, count)
	var header *Header
	for range count {
		if r.number() == 1 || header == nil {
			header = &Header{Stream: string(r.text()), File: string(r.text()), Page: string(r.text()), Release: string(r.text()), Worker: string(r.text())}
		}
		source, at := sdk.Source(r.signed()), r.signed()
		recs = append(recs, record{header, sdk.Line{Source: source, Time: time.Unix(0, at), Text: r.text()}})
	}
	if r.failed {
		return 0, "", nil, errDamaged
	}
	return number, stream, recs, nil
}

// reader reads numbers and strings until the first fault, and zeros from then on.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) number() uint64 { return take(r, binary.Uvarint) }
func (r *reader) signed() int64  { return take(r, binary.Varint) }

func take[T int64 | uint64](r *reader, parse func([]byte) (T, int)) T {
	v, n := parse(r.b)
	if n <= 0 {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) text() []byte {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.failed, r.b = true, nil
		return nil
	}
	s := r.b[:n:n]
	r.b = r.b[n:]
	return s
}

// readLeftover reads the frame at off of a file of size bytes.
func readLeftover(file *os.File, off, size int64) (leftover, error) {
	head := make([]byte, headSize)
	if _, err := file.ReadAt(head, off); err != nil {
		return leftover{}, torn(err)
	}
	body, err := bodySize(head)
	if err != nil {
		return leftover{}, err
	}
	if off+headSize+body > size {
		return leftover{}, io.ErrUnexpectedEOF
	}
	frame := make([]byte, headSize+body)
	if _, err := file.ReadAt(frame, off); err != nil {
		return leftover{}, torn(err)
	}
	number, stream, recs, err := decode(frame)
	if err != nil {
		return leftover{}, err
	}
	left := leftover{number: number, stream: stream, off: off, size: len(frame), count: len(recs), acked: int(binary.LittleEndian.Uint32(frame[ackedAt:]))}
	for i, r := range recs {
		if i >= left.acked {
			left.text += int64(len(r.line.Text))
			left.header = r.header
		}
	}
	return left, nil
}

func torn(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
