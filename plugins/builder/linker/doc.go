// Package linker links Go programs with a linker that was started beforehand and has already loaded everything but the
// main package.
//
// # How
//
// Most of what a link does before it looks at the program's own code is the same for every save: it opens some two
// hundred archives and gives a number to each of their symbols. Here a linker process does that after a build, off the
// path, and waits. Link tells it where main is and where the output goes, and it does the rest.
//
// The linker is the one of the user's own toolchain, with a change: its sources, in GOROOT/src/cmd/link, are built with
// `go build -overlay`, three files of our own added (_patch) and three lines of theirs replaced (edits in tool.go). Nothing
// of Go's sources is kept here. A toolchain in which one of these lines is not there exactly once, whose sources are
// missing or do not build, or whose stock linker is of another version, has no preloaded linker. That is logged once,
// and the stock linker does everything. The build takes about 6 s of CPU time, once for each toolchain, at low priority.
//
// # Why the output is the same
//
// It is the same byte by byte. The stock linker numbers main's symbols first, then those of the packages in the order in
// which main and they import them, and much of the output is in the order of these numbers. The preloaded linker leaves
// room for main's numbers where they would have been; it knows the order from a main package that it was shown before.
// Of a symbol that several packages define with the same content, the stock linker keeps main's: when main comes, its
// symbol takes over, and all that refer to the number of the other are redirected. So all numbers have the order that
// they have in the stock linker, and from there on it is the stock linker's own code that runs.
//
// One step is also done in part beforehand: what is reachable from the start of the runtime and the initialization of
// the packages is in every program that imports them. It is marked before main is there, but not through functions of
// which main may have a copy of its own. If main changes something about what was marked, that is marked again, and
// where it would not be exactly what the stock linker marks, all of it is dropped and done anew.
//
// Whatever the preloaded linker does not expect of main ends it, and the stock linker is asked: other imports, or the
// same in another order; a definition of a symbol that another package defines, too, by linkname; assembly or cgo;
// more symbols than there is room for. Flags whose effect was not looked into, cgo and shared libraries never get that
// far. And before the first program with a set of packages and flags counts, one is linked by both linkers, at low
// priority, and compared; a difference is a warning and the end of it for that set.
//
// # What it costs
//
// A waiting process holds about 35 MiB of its own for a page with net/http, and maps up to 65 MiB of archives, which it
// shares with others and with the page cache. While it links it takes 20 MiB more, as any linker does. It never has its
// garbage collected while it links.
//
// # What it saves, and what did not pay
//
// BenchmarkLink compares the two in turns. For a page with net/http, html/template and encoding/json (Go 1.26.8, 2 cores,
// -s -w, medians of 15): 199 ms stock, 114 ms preloaded, 0.57 of it. With DWARF it is 0.74. Of the parts:
//
//   - Telling that the output is complete before the process has exited: 10 ms, as tearing down its memory takes that
//     long. Kept.
//   - Resolving references to names in advance, and undefined names once each instead of 90,000 times: 8 ms. Kept.
//   - Marking in advance: 15 to 20 ms of 45. Kept.
//   - Reading the mapped archives in advance (MADV_POPULATE_READ), and touching 24 MiB of heap: not to be told from
//     noise, for 20 to 55 MiB more memory. Not kept.
//   - pclntab (40 ms) and the output itself (45 ms) are the largest parts left. Both depend on the set of reachable
//     symbols, which an edit of main may change, and on addresses, which it does.
//   - DWARF is generated from the whole program, too; pages are better built with -w.
package linker
