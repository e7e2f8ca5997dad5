package proxy

// Bounds of what may stand around the bytes of a chunked request body. They are
// tighter than those of net/http, which reads the same body afterwards.
const (
	maxChunkDigits    = 15      // so that the size cannot overflow
	maxExtension      = 1 << 10 // bytes of the extensions of one chunk
	maxExtensions     = 8 << 10 // bytes by which all extensions may exceed the body
	maxRequestTrailer = 4000    // bytes
)

// chunks follows a chunked body through its framing, piece by piece, however it
// is cut. The zero value is in front of the first chunk.
type chunks struct {
	at     chunkState
	size   int64 // of the chunk, as far as it was read; then what is left of it
	digits int
	line   int // bytes of the extension
	excess int64
	tail   int // bytes of the trailer
	fields int // of the trailer
}

type chunkState uint8

const (
	atSize chunkState = iota
	atExtension
	atSizeLF
	atData
	atDataCR
	atDataLF
	atTrailerStart
	atTrailerName
	atTrailerValue
	atTrailerLF
	atFinalLF
	atChunksEnd
)

// scan takes the next bytes in. It returns how many of b belong to the body and
// its framing, which is all of b unless done. The error is a *refusal, and
// final.
func (s *chunks) scan(b []byte) (n int, done bool, err error) {
	for n < len(b) {
		if s.at == atData {
			k := min(s.size, int64(len(b)-n))
			n += int(k)
			if s.size -= k; s.size == 0 {
				s.at = atDataCR
			}
			continue
		}
		bad := s.step(b[n])
		if bad != nil {
			return n, false, bad
		}
		n++
		if s.at == atChunksEnd {
			return n, true, nil
		}
	}
	return n, false, nil
}

// step takes in a byte that is none of the data.
func (s *chunks) step(c byte) *refusal {
	switch s.at {
	case atSize:
		return s.sizeByte(c)
	case atExtension:
		return s.extensionByte(c)
	case atSizeLF:
		if c != '\n' {
			return &refusals[badChunkSize]
		}
		return s.begin()
	case atDataCR:
		if c != '\r' {
			return &refusals[badChunkEnd]
		}
		s.at = atDataLF
	case atDataLF:
		if c != '\n' {
			return &refusals[badChunkEnd]
		}
		s.at, s.size, s.digits, s.line = atSize, 0, 0, 0
	default:
		return s.trailerByte(c)
	}
	return nil
}

func (s *chunks) sizeByte(c byte) *refusal {
	digit, ok := unhex(c)
	switch {
	case ok && s.digits < maxChunkDigits:
		s.size = s.size<<4 | int64(digit)
		s.digits++
	case ok || s.digits == 0:
		return &refusals[badChunkSize]
	case c == ';':
		s.at, s.line = atExtension, 1
	case c == '\r':
		s.at = atSizeLF
	default:
		return &refusals[badChunkSize]
	}
	return nil
}

// extensionByte passes over an extension. White space in one is refused, since
// others have ended the line there.
func (s *chunks) extensionByte(c byte) *refusal {
	if c == '\r' {
		s.at = atSizeLF
		return nil
	}
	if s.line++; c <= ' ' || c == 0x7f || s.line > maxExtension {
		return &refusals[badChunkExtension]
	}
	return nil
}

// begin is called behind the line that gives the size.
func (s *chunks) begin() *refusal {
	if s.excess = max(0, s.excess+int64(s.line)-s.size); s.excess > maxExtensions {
		return &refusals[badChunkExtension]
	}
	s.at = atData
	if s.size == 0 {
		s.at = atTrailerStart
	}
	return nil
}

func (s *chunks) trailerByte(c byte) *refusal {
	if s.tail++; s.tail > maxRequestTrailer {
		return &refusals[badTrailer]
	}
	ok := false
	switch s.at {
	case atTrailerStart:
		if c == '\r' {
			s.at = atFinalLF
			return nil
		}
		s.fields++
		ok = isToken(c) && s.fields <= maxRequestFields
		s.at = atTrailerName
	case atTrailerName:
		if ok = isToken(c); c == ':' {
			ok, s.at = true, atTrailerValue
		}
	case atTrailerValue:
		if ok = c >= ' ' && c != 0x7f || c == '\t'; c == '\r' {
			ok, s.at = true, atTrailerLF
		}
	case atTrailerLF:
		ok, s.at = c == '\n', atTrailerStart
	case atFinalLF:
		ok, s.at = c == '\n', atChunksEnd
	}
	if !ok {
		return &refusals[badTrailer]
	}
	return nil
}
