package ld

// This file becomes part of the package cmd/link/internal/ld of a toolchain, see ../doc.go.

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"cmd/internal/goobj"
	"cmd/internal/objabi"
	"cmd/link/internal/loader"
	"cmd/link/internal/sym"
	"internal/buildcfg"
)

// flagPreload names a file as DescribeMain prints it, or "describe": print it for main and do not link.
var flagPreload = flag.String("preload", "", "")

var (
	preloadDead  *deadcodePass // what was marked without main
	preloadRoots []loader.Sym  // the package initializations that this began with
	preloadKept  bool          // those marks were good
)

type preloadPlan struct {
	pkg, other int      // room for main's symbols
	imports    []string // of main, in their order
}

// preload loads the dependencies, says so on descriptor 3 and waits on standard input for the file of main and that of
// the output. It gives the number of libraries that are loaded with main, or 0 when this is an ordinary link.
func (ctxt *Link) preload() int {
	switch *flagPreload {
	case "":
		return 0
	case "describe":
		ctxt.preloadDescribe()
		Exit(0)
	}
	plan := readPreloadPlan(*flagPreload)
	main, status := ctxt.Library[0], os.NewFile(3, "status")
	version := ctxt.IncVersion()
	ctxt.loader.ReserveMain()
	loaded := make(chan bool)
	go func() { // on a thread of its own that ends with it, as a thread may lower its priority but never raise it
		runtime.LockOSThread()
		syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19)
		ctxt.preloadDeps(plan)
		close(loaded)
	}()
	<-loaded
	runtime.GC()
	debug.SetGCPercent(-1)
	fmt.Fprintln(status, "ready")

	in := bufio.NewScanner(os.Stdin)
	in.Scan()
	main.File = in.Text()
	if !in.Scan() {
		Exit(2)
	}
	ctxt.preloadOutput(in.Text())
	ctxt.preloadMain(main, version, plan.imports)
	AtExit(func() {
		if nerrors == 0 && ctxt.Out.f == nil {
			fmt.Fprintln(status, "done", preloadKept)
		}
	})
	return len(ctxt.Library)
}

func (ctxt *Link) preloadDescribe() {
	main := ctxt.Library[0]
	loadobjfile(ctxt, main)
	pkg, other := ctxt.loader.DescribeMain()
	fmt.Println("room", pkg, other)
	for _, imp := range main.Imports {
		fmt.Println("import", imp.Pkg)
	}
}

func readPreloadPlan(file string) (plan preloadPlan) {
	text, err := os.ReadFile(file)
	if err != nil {
		Exitf("preload: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		verb, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch verb {
		case "room":
			_, err = fmt.Sscan(rest, &plan.pkg, &plan.other)
		case "import":
			plan.imports = append(plan.imports, rest)
		}
		if err != nil {
			Exitf("preload: %s: %q: %v", file, line, err)
		}
	}
	return plan
}

// preloadDeps loads what loadlib would, in its order, but main.
func (ctxt *Link) preloadDeps(plan preloadPlan) {
	for _, pkg := range plan.imports {
		addlib(ctxt, "main", "main", pkg, goobj.FingerprintType{})
	}
	i := 1
	for ; i < len(ctxt.Library); i++ {
		loadobjfile(ctxt, ctxt.Library[i])
	}
	loadinternal(ctxt, "runtime")
	for ; i < len(ctxt.Library); i++ {
		loadobjfile(ctxt, ctxt.Library[i])
	}
	exitIfErrors()
	ctxt.loader.PreloadDeps(plan.pkg, plan.other)
	if ctxt.LibraryByPkg["runtime/cgo"] == nil && ctxt.LinkMode != LinkExternal && !buildcfg.Experiment.FieldTrack {
		ctxt.preloadMarks()
	}
}

// preloadOutput replaces the output that the link began with.
func (ctxt *Link) preloadOutput(file string) {
	ctxt.Out.ErrorClose()
	*flagOutfile = file
	mayberemoveoutfile()
	if err := ctxt.Out.Open(file); err != nil {
		Exitf("cannot create %s: %v", file, err)
	}
}

// preloadMain loads main as the first object. It must import what was loaded, in the same order, and nothing else that
// has a say in the link.
func (ctxt *Link) preloadMain(main *sym.Library, version int, imports []string) {
	libraries, hosts, cgo, next := len(ctxt.Library), len(hostobj), len(ctxt.cgodata), ctxt.version
	ctxt.version = version
	loadobjfile(ctxt, main)
	if ctxt.version != version+1 || len(ctxt.Library) != libraries || len(hostobj) != hosts || len(ctxt.cgodata) != cgo {
		Exitf("preload: main needs more than was loaded")
	}
	ctxt.version = next
	same := len(main.Imports) == len(imports)
	for i := 0; same && i < len(imports); i++ {
		same = main.Imports[i].Pkg == imports[i]
	}
	if !same {
		Exitf("preload: main has other imports than expected")
	}
}

// preloadMarks marks what is reachable from the start of the runtime and from the initialization of each package: it is
// in every program of these packages.
func (ctxt *Link) preloadMarks() {
	ldr := ctxt.loader
	ldr.BeginMarks()
	ctxt.Loaded = true // asked for by init
	d := &deadcodePass{ctxt: ctxt, ldr: ldr}
	d.init()
	ctxt.Loaded = false
	for _, lib := range ctxt.Library[1:] {
		s := ldr.Lookup(objabi.PathToPrefix(lib.Pkg)+"..inittask", 0)
		if s != 0 && ldr.SymSize(s) > 8 { // as inittaskSym has it
			preloadRoots = append(preloadRoots, s)
			d.mark(s, 0)
		}
	}
	for d.flood(); d.preloadMethods(); d.flood() {
	}
	ldr.EndMarks()
	preloadDead = d
}

// preloadMethods marks methods as deadcode does, and tells whether there is anything new to go through.
func (d *deadcodePass) preloadMethods() bool {
	rest := d.markableMethods[:0]
	for _, m := range d.markableMethods {
		if d.reflectSeen && m.isExported() || d.ifaceMethod[m.m] || d.genericIfaceMethod[m.m.name] {
			d.markMethod(m)
		} else {
			rest = append(rest, m)
		}
	}
	d.markableMethods = rest
	return !d.wq.empty()
}

// preloadedInit takes the place of init: it goes on with what was marked without main.
func (d *deadcodePass) preloadedInit() {
	old := preloadDead
	if old == nil {
		d.init()
		return
	}
	d.ldr.InitReachable()
	if !d.preloadedRoots() {
		d.init()
		return
	}
	again, ok := d.ldr.RestoreMarks(!*FlagW)
	if !ok {
		d.init()
		return
	}
	preloadKept = true
	d.reflectSeen, d.pkginits, d.mapinitnoop = old.reflectSeen, old.pkginits, old.mapinitnoop
	d.genericIfaceMethod, d.ifaceMethod = old.genericIfaceMethod, make(map[methodsig]bool)
	for m := range old.ifaceMethod {
		m.typ = loader.PreloadedSym(m.typ)
		d.ifaceMethod[m] = true
	}
	for _, m := range old.markableMethods {
		m.m.typ, m.src = loader.PreloadedSym(m.m.typ), loader.PreloadedSym(m.src)
		d.markableMethods = append(d.markableMethods, m)
	}
	for _, s := range append(again, d.ctxt.mainInittasks) {
		d.mark(s, 0)
	}
}

// preloadedRoots tells whether the program initializes all packages that were marked.
func (d *deadcodePass) preloadedRoots() bool {
	lists := []loader.Sym{d.ctxt.mainInittasks}
	lists = append(lists, d.preloadedRefs(d.ldr.Lookup("runtime.runtime_inittasks", 0))...)
	tasks := make(map[loader.Sym]bool)
	for _, list := range lists {
		for _, s := range d.preloadedRefs(list) {
			tasks[s] = true
		}
	}
	for _, s := range preloadRoots {
		if !tasks[s] {
			return false
		}
	}
	return true
}

func (d *deadcodePass) preloadedRefs(s loader.Sym) (refs []loader.Sym) {
	if s == 0 {
		return nil
	}
	relocs := d.ldr.Relocs(s)
	for i := range relocs.Count() {
		refs = append(refs, relocs.At(i).Sym())
	}
	return refs
}
