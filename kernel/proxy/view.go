package proxy

import "unsafe"

// view returns b as a string without copying it. The string is valid only until
// b is written to: whoever keeps it longer must clone it first.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
