package loader

// This file becomes part of the package cmd/link/internal/loader of a toolchain, see ../doc.go.
//
// The stock linker reads all objects, main first, and numbers their symbols in that order. Here the dependencies come
// first: PreloadDeps numbers their symbols and leaves room where those of main belong; preloadedSyms, in place of
// LoadSyms, puts main into that room. A symbol that both main and a dependency define (hashed, or dupok) is main's in
// the stock linker; the dependency's number becomes an alias of it. So the order of all numbers, and by it the
// output, is that of the stock linker.
//
// What main may do to the dependencies beyond that ends the process; the stock linker takes over.

import (
	"log"
	"slices"
	"strings"

	"cmd/internal/goobj"
	"cmd/internal/objabi"
	"cmd/internal/sys"
)

var preloaded struct {
	ready      bool
	st         loadState
	pkg, other preloadRoom // for main's package symbols, and for its hashed and named ones
	end        Sym         // of the numbers of definitions; those of undefined names follow until main is there
	undefined  []preloadUndefined
	byName     map[nameVer]int // index in undefined
	alias      []Sym           // what a number became when main was there, 0: it stayed
	moved      [][2]Sym        // numbers of the dependencies, and of main, for what both define
	hidden     []preloadHidden
	wanted     Bitmap // undefined names that were marked
	reachable  Bitmap // attrReachable and attrUsedInIface as the marks left them; the loader's are without
	marked     Bitmap
}

type preloadRoom struct{ start, next, end Sym }

// preloadUndefined is a name that no dependency defines: main does, or the linker.
type preloadUndefined struct {
	nameVer
	local, usedInIface bool
	linknames          []string // packages that refer to it by linkname
}

type preloadHidden struct {
	s      Sym
	at     objSym
	wanted bool
}

// DescribeMain gives what PreloadDeps needs for a program like the one whose only loaded object is main.
func (l *Loader) DescribeMain() (pkg, other int) {
	r := l.objs[len(l.objs)-1]
	return 2*r.ndef + 4096, 2*(r.NAlldef()-r.ndef) + 8192
}

// ReserveMain comes before the first object: it keeps the place of main's.
func (l *Loader) ReserveMain() { l.objs = append(l.objs, nil) }

// PreloadDeps does what LoadSyms does, for all objects but main's, with room for so many symbols of main.
func (l *Loader) PreloadDeps(pkg, other int) {
	p, deps := &preloaded, l.objs[goObjStart+1:]
	l.preloadState(deps, pkg+other)
	p.pkg = l.preloadRoom(pkg)
	for _, r := range deps {
		p.st.preloadSyms(r, pkgDef)
	}
	p.other = l.preloadRoom(other)
	for _, r := range deps {
		p.st.preloadSyms(r, hashed64Def)
		p.st.preloadSyms(r, hashedDef)
		p.st.preloadSyms(r, nonPkgDef)
	}
	l.preloadLinknames()
	p.end = Sym(l.NSym())
	p.byName = make(map[nameVer]int)
	for _, r := range deps {
		l.preloadFingerprints(r)
		l.preloadRefs(r)
	}
	l.preloadUndefined()
	p.ready = true
}

func (l *Loader) preloadState(deps []*oReader, room int) {
	n, hashed, hashed64 := 1+room, 0, 0
	for _, r := range deps {
		n += r.ndef + r.nhasheddef/2 + r.nhashed64def/2 + r.NNonpkgdef()
		hashed += r.nhasheddef / 2
		hashed64 += r.nhashed64def / 2
	}
	l.objSyms = make([]objSym, 1, n)
	preloaded.st = loadState{
		l:            l,
		hashed64Syms: make(map[uint64]symAndSize, hashed64),
		hashedSyms:   make(map[goobj.HashType]symAndSize, hashed),
	}
}

// preloadRoom takes n numbers. What stays of them is a symbol that nobody refers to, as there are many.
func (l *Loader) preloadRoom(n int) preloadRoom {
	start := Sym(len(l.objSyms))
	l.objSyms = append(l.objSyms, slices.Repeat([]objSym{l.preloadBlank()}, n)...)
	return preloadRoom{start, start, start + Sym(n)}
}

func (m *preloadRoom) take() Sym {
	if m.next == m.end {
		log.Fatalf("preload: more symbols in main than there is room for")
	}
	m.next++
	return m.next - 1
}

// preloadBlank finds a symbol that refers to nothing and is nothing special.
func (l *Loader) preloadBlank() objSym {
	for _, r := range l.objs[goObjStart+1:] {
		for i := range uint32(r.NAlldef()) {
			if osym := r.Sym(i); r.NReloc(i) == 0 && r.NAux(i) == 0 && osym.Flag() == 0 && osym.Flag2() == 0 {
				return objSym{r.objidx, i}
			}
		}
	}
	log.Fatalf("preload: no plain symbol")
	return objSym{}
}

func (l *Loader) preloadLinknames() {
	for _, vr := range preloaded.st.linknameVarRefs {
		l.checkLinkname(vr.pkg, vr.name, vr.sym)
	}
	preloaded.st.linknameVarRefs = nil
}

// preloadFingerprints checks that r was compiled with the packages that were loaded. The stock linker finds out when
// it adds the imports of r; here the fingerprints of main's own imports are not yet known at that point.
func (l *Loader) preloadFingerprints(r *oReader) {
	for _, imp := range r.Autolib() {
		if l.objs[l.objByPkg[objabi.PathToPrefix(imp.Pkg)]].Fingerprint() != imp.Fingerprint {
			log.Fatalf("preload: %s was compiled with another %s", r.unit.Lib, imp.Pkg)
		}
	}
}

// preloadRefs does what loadObjRefs does, but for the names that are not defined yet.
func (l *Loader) preloadRefs(r *oReader) {
	ndef := uint32(r.NAlldef())
	for i := ndef; i < ndef+uint32(r.NNonpkgref()); i++ {
		osym := r.Sym(i)
		name := nameVer{osym.Name(r.Reader), abiToVer(osym.ABI(), r.version)}
		gi := l.Lookup(name.name, name.v)
		if gi == 0 {
			r.syms[i] = preloadLater(r, osym, name)
			continue
		}
		r.syms[i] = gi
		if osym.IsLinkname() {
			l.checkLinkname(r.unit.Lib.Pkg, name.name, gi)
		}
		l.preloadAttr(gi, osym.Local(), osym.UsedInIface())
	}
	r.pkg = make([]uint32, r.NPkg())
	for i := 1; i < len(r.pkg); i++ {
		objidx, ok := l.objByPkg[r.Pkg(i)]
		if !ok {
			log.Fatalf("preload: %v: reference to nonexistent package %s", r.unit.Lib, r.Pkg(i))
		}
		r.pkg[i] = objidx
	}
	for i := range r.NRefFlags() {
		rf := r.RefFlags(i)
		if rf.Flag2()&goobj.SymFlagUsedInIface != 0 {
			l.SetAttrUsedInIface(l.resolve(r, rf.Sym()), true)
		}
	}
}

func preloadLater(r *oReader, osym *goobj.Sym, name nameVer) Sym {
	p := &preloaded
	n, ok := p.byName[name]
	if !ok {
		n = len(p.undefined)
		p.byName[name] = n
		p.undefined = append(p.undefined, preloadUndefined{nameVer: name})
	}
	u := &p.undefined[n]
	u.local, u.usedInIface = u.local || osym.Local(), u.usedInIface || osym.UsedInIface()
	if osym.IsLinkname() {
		u.linknames = append(u.linknames, r.unit.Lib.Pkg)
	}
	return p.end + Sym(n)
}

func (l *Loader) preloadAttr(gi Sym, local, usedInIface bool) {
	if local {
		l.SetAttrLocal(gi, true)
	}
	if usedInIface {
		l.SetAttrUsedInIface(gi, true)
	}
}

// preloadUndefined gives numbers to the undefined names, for the marks, and makes room for what main will need.
func (l *Loader) preloadUndefined() {
	p := &preloaded
	l.objSyms = append(l.objSyms, slices.Repeat([]objSym{l.preloadBlank()}, len(p.undefined))...)
	room := l.NSym() + 10_000
	l.objSyms = slices.Grow(l.objSyms, room-l.NSym())
	l.values, l.outer, p.alias = make([]int64, room), make([]Sym, room), make([]Sym, l.NSym())
	for i := range room { // touches the memory now
		l.values[i], l.outer[i] = 0, 0
	}
	l.growAttrBitmaps(room)
}

// preloadedSyms takes the place of LoadSyms when the dependencies were preloaded: main's object is the last one.
func preloadedSyms(l *Loader, arch *sys.Arch) bool {
	p := &preloaded
	if !p.ready {
		return false
	}
	last := len(l.objs) - 1
	r := l.objs[last]
	l.objs[goObjStart], l.objs = r, l.objs[:last]
	r.objidx, l.objByPkg["main"] = goObjStart, goObjStart

	l.objSyms = l.objSyms[:p.end]
	for i := range uint32(r.NAlldef()) {
		l.preloadedDef(r, i)
	}
	l.preloadLinknames()
	loadObjRefs(l, r, arch) // the first to create external symbols, as ever
	for i, u := range p.undefined {
		gi := l.LookupOrCreateSym(u.name, u.v)
		p.alias[p.end+Sym(i)] = gi
		for _, pkg := range u.linknames {
			l.checkLinkname(pkg, u.name, gi)
		}
		l.preloadAttr(gi, u.local, u.usedInIface)
	}
	l.preloadedAliases()
	for _, sf := range l.sizeFixups {
		l.cloneToExternal(sf.sym).size = int64(sf.size)
	}
	l.values, l.outer = l.values[:l.NSym()], l.outer[:l.NSym()]
	return true
}

// preloadedDef does for one symbol of main what preloadSyms and addSym do.
func (l *Loader) preloadedDef(r *oReader, i uint32) {
	osym := r.Sym(i)
	var gi Sym
	switch h64, h, named := uint32(r.ndef), uint32(r.ndef+r.nhashed64def), uint32(r.ndef+r.nhashed64def+r.nhasheddef); {
	case i < h64:
		gi = l.preloadedPkg(r, i, osym)
	case i < h:
		gi = preloadedHashed(l, r, i, osym, preloaded.st.hashed64Syms, r.Hash64(i-h64))
	case i < named:
		gi = preloadedHashed(l, r, i, osym, preloaded.st.hashedSyms, *r.Hash(i - h))
	default:
		gi = l.preloadedNamed(r, i, osym)
	}
	r.syms[i] = gi
	l.preloadAttr(gi, osym.Local(), osym.UsedInIface())
	if a := int32(osym.Align()); a > l.SymAlign(gi) {
		l.SetSymAlign(gi, a)
	}
	if osym.WasmExport() {
		log.Fatalf("preload: main exports to wasm")
	}
}

func (l *Loader) preloadedPkg(r *oReader, i uint32, osym *goobj.Sym) Sym {
	gi := preloaded.pkg.take()
	l.objSyms[gi] = objSym{r.objidx, i}
	if name, v := osym.Name(r.Reader), abiToVer(osym.ABI(), r.version); name != "" && v != r.version {
		if l.symsByName[v][name] != 0 {
			log.Fatalf("preload: main defines %s again", name)
		}
		l.symsByName[v][name] = gi
	}
	return gi
}

func preloadedHashed[H comparable](l *Loader, r *oReader, i uint32, osym *goobj.Sym, all map[H]symAndSize, hash H) Sym {
	room := &preloaded.other
	size := osym.Siz()
	old, existed := all[hash]
	if existed && old.sym >= room.start && old.sym < room.end { // main itself has it
		if size > old.size {
			l.objSyms[old.sym] = objSym{r.objidx, i}
			all[hash] = symAndSize{old.sym, size}
		}
		return old.sym
	}
	gi := room.take()
	l.objSyms[gi] = objSym{r.objidx, i}
	if existed {
		l.preloadedMove(old.sym, gi)
		if old.size > size { // the larger one is kept, wherever it comes from
			l.objSyms[gi], size = l.objSyms[old.sym], old.size
		}
	}
	all[hash] = symAndSize{gi, size}
	return gi
}

func (l *Loader) preloadedNamed(r *oReader, i uint32, osym *goobj.Sym) Sym {
	gi := preloaded.other.take()
	l.objSyms[gi] = objSym{r.objidx, i}
	name, v := osym.Name(r.Reader), abiToVer(osym.ABI(), r.version)
	if name == "" || v == r.version {
		return gi
	}
	if strings.HasPrefix(name, "runtime.") && goobj.BuiltinIdx(name, int(osym.ABI())) != -1 {
		log.Fatalf("preload: main defines the builtin %s", name)
	}
	if osym.IsLinkname() && r.DataSize(i) == 0 && strings.Contains(name, ".") {
		preloaded.st.linknameVarRefs = append(preloaded.st.linknameVarRefs, linknameVarRef{r.unit.Lib.Pkg, name, gi})
	}
	old := l.symsByName[v][name]
	l.symsByName[v][name] = gi
	if old == 0 {
		return gi
	}
	oldr, oldli := l.toLocal(old)
	if oldr == r || !osym.Dupok() || !oldr.Sym(oldli).Dupok() { // there are rules for these; the stock linker has them
		log.Fatalf("preload: main defines %s again", name)
	}
	l.preloadedMove(old, gi)
	if l.SymSize(old) > int64(osym.Siz()) {
		l.objSyms[gi] = l.objSyms[old]
	}
	return gi
}

// preloadedMove makes old, a number of the dependencies, an alias of gi.
func (l *Loader) preloadedMove(old, gi Sym) {
	preloaded.alias[old] = gi
	preloaded.moved = append(preloaded.moved, [2]Sym{old, gi})
	l.preloadAttr(gi, l.AttrLocal(old), l.AttrUsedInIface(old))
	if a := l.SymAlign(old); a != 0 {
		l.SetSymAlign(gi, a)
	}
}

func (l *Loader) preloadedAliases() {
	alias := preloaded.alias
	for i, s := range l.builtinSyms {
		l.builtinSyms[i] = PreloadedSym(s)
	}
	for _, r := range l.objs[goObjStart+1:] {
		for i, s := range r.syms {
			if to := alias[s]; to != 0 {
				r.syms[i] = to
			}
		}
	}
}

// PreloadedSym gives the number that s became when main was there.
func PreloadedSym(s Sym) Sym {
	if to := preloaded.alias[s]; to != 0 {
		return to
	}
	return s
}
