package loader

// This file becomes part of the package cmd/link/internal/loader of a toolchain, see ../doc.go.
//
// Symbols that are in every program of the dependencies are marked as reachable before main is there. Afterwards, what
// main has changed is marked again, so that the marks are those that the stock linker makes.

import (
	"slices"
	"strings"

	"cmd/internal/goobj"
	"cmd/internal/objabi"
	"cmd/link/internal/sym"
)

// BeginMarks comes before the first mark without main.
func (l *Loader) BeginMarks() {
	preloaded.marked = slices.Clone(l.attrUsedInIface)
	l.hideFuncs()
}

// hideFuncs keeps the marks from going through functions that main may define as well: which of the copies is kept
// decides what else is.
func (l *Loader) hideFuncs() {
	p := &preloaded
	blank := l.preloadBlank()
	for _, r := range l.objs[goObjStart+1:] {
		for i := uint32(r.ndef + r.nhashed64def + r.nhasheddef); i < uint32(r.NAlldef()); i++ {
			osym, s := r.Sym(i), r.syms[i]
			at, text := objSym{r.objidx, i}, sym.AbiSymKindToSymKind[objabi.SymKind(osym.Type())].IsText()
			if text && osym.Dupok() && l.objSyms[s] == at && copied(osym.Name(r.Reader)) {
				p.hidden = append(p.hidden, preloadHidden{s: s, at: at})
				l.objSyms[s] = blank
			}
		}
	}
}

// copied tells by the name of a function whether packages other than that of its type have it as well: instances of
// generic functions, what compares and hashes values, methods of types without a name, and method values. Of wrappers
// of methods there are more; main has rarely one that others have.
func copied(name string) bool {
	return strings.Contains(name, "[") || strings.HasPrefix(name, "type:.") || strings.HasPrefix(name, "go:") || strings.HasSuffix(name, "-fm")
}

// EndMarks comes after the last mark without main. It takes the marks away until it is known whether they are good.
func (l *Loader) EndMarks() {
	p := &preloaded
	p.reachable, l.attrReachable = l.attrReachable, MakeBitmap(l.attrReachable.Len())
	p.marked, l.attrUsedInIface = l.attrUsedInIface, p.marked
	for i, h := range p.hidden {
		l.objSyms[h.s] = h.at
		p.hidden[i].wanted = p.reachable.Has(h.s)
		p.reachable.Unset(h.s)
	}
	p.wanted = MakeBitmap(len(p.undefined))
	for i := range p.undefined {
		if s := p.end + Sym(i); p.reachable.Has(s) {
			p.wanted.Set(Sym(i))
			p.reachable.Unset(s)
		}
	}
}

// RestoreMarks sets the marks again that were made without main, and gives what has still to be marked now that main is
// there: what was hidden or not defined, is another copy now, is used by an interface now, or was changed by the linker.
// It fails, and sets none, where they are good no more. Without dwarf nothing comes of marks of debug information, which
// refers to such only, and of which packages may have different copies.
func (l *Loader) RestoreMarks(dwarf bool) (again []Sym, ok bool) {
	p := &preloaded
	for _, m := range p.moved {
		if p.reachable.Has(m[0]) && (dwarf || !l.SymType(m[0]).IsDWARF()) && !l.sameRefs(m[0], m[1]) {
			return nil, false
		}
	}
	again = l.marksToRenew()
	for i, with := range p.reachable {
		if l.attrReachable[i]&with != 0 { // something else has marked it, and does not want it to be gone through
			return nil, false
		}
	}
	for i, with := range p.reachable {
		l.attrReachable[i] |= with
		l.attrUsedInIface[i] |= p.marked[i]
	}
	for _, m := range p.moved {
		if p.marked.Has(m[0]) {
			l.SetAttrUsedInIface(m[1], true)
		}
	}
	for _, h := range p.hidden {
		if h.wanted {
			again = append(again, PreloadedSym(h.s))
		}
	}
	for i := range p.undefined {
		if p.wanted.Has(Sym(i)) {
			again = append(again, p.alias[p.end+Sym(i)])
		}
	}
	return again, true
}

// marksToRenew takes away the marks of symbols that have changed, and gives these.
func (l *Loader) marksToRenew() (again []Sym) {
	p := &preloaded
	renew := func(s, to Sym) {
		if s < p.end && p.reachable.Has(s) {
			p.reachable.Unset(s)
			again = append(again, to)
		}
	}
	for _, m := range p.moved {
		renew(m[0], m[1])
	}
	for _, s := range l.extReader.syms {
		renew(s, s)
	}
	for i, with := range p.marked {
		for diff, s := l.attrUsedInIface[i]&^with, Sym(i)*32; diff != 0; diff, s = diff>>1, s+1 {
			if diff&1 != 0 {
				renew(s, s)
			}
		}
	}
	return again
}

// sameRefs tells whether two copies of a symbol make the same symbols reachable.
func (l *Loader) sameRefs(a, b Sym) bool {
	for _, s := range []Sym{a, b} {
		for i := range l.NAux(s) {
			if l.Aux(s, i).Type() != goobj.AuxGotype { // which is not followed
				return false
			}
		}
	}
	ra, rb := l.Relocs(a), l.Relocs(b)
	if ra.Count() != rb.Count() {
		return false
	}
	for i := range ra.Count() {
		x, y := ra.At(i), rb.At(i)
		if x.Type() != y.Type() || x.Off() != y.Off() || x.Add() != y.Add() || x.Sym() != y.Sym() {
			return false
		}
	}
	return true
}
