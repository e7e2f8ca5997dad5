package kernel

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tqserver/tqserver/"

// mayImport is the direction of imports: a package may import those of this module that its row names, with what is
// below them. Leaves of kernel do not import each other; process is what worker and stage share.
var mayImport = map[string][]string{
	"config":         nil,
	"sdk":            {"sdk/proto"},
	"sdk/proto":      {"sdk/proto"},
	"sdk/worker":     nil,
	"sdk/stagetest":  {"sdk", "sdk/proto"},
	"kernel":         {"config", "sdk", "sdk/proto", "kernel"},
	"kernel/process": nil,
	"kernel/dev":     nil,
	"kernel/port":    nil,
	"kernel/proxy":   {"config"},
	"kernel/worker":  {"config", "kernel/process"},
	"kernel/stage":   {"config", "sdk", "sdk/proto", "kernel/process"},
	"kernel/spool":   {"sdk"},
	"kernel/control": {"sdk"},
	"plugins":        {"sdk", "plugins/builder/linker"},
	"pages":          {"sdk/worker"},
	"docs":           {"config"},
	"cmd":            {"config", "sdk", "sdk/stagetest", "kernel", "kernel/control", "plugins"},

	"sdk/worker/templates": {"sdk/worker"},
}

// thirdParty is what the kernel and the pages may import from elsewhere; everything else is free.
var thirdParty = map[string][]string{
	"kernel": {"github.com/hashicorp/go-hclog", "github.com/hashicorp/go-plugin", "google.golang.org/grpc",
		"google.golang.org/protobuf", "gopkg.in/yaml.v3", "golang.org/x/sys"},
	"sdk/worker": {},
	"pages":      {},

	"sdk/worker/templates": {},
}

func TestImportsRunOneWay(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		row := rowOf(name)
		allowed, ok := mayImport[row]
		if !ok {
			t.Errorf("package %s has no row in mayImport: where does it belong?", name)
			continue
		}
		for _, imp := range p.Imports {
			if own, ok := strings.CutPrefix(imp, module); ok {
				if !under(own, allowed) {
					t.Errorf("%s imports %s: it may import %v", name, own, allowed)
				}
			} else if more, ok := thirdParty[rowOfThirdParty(row)]; ok && strings.Contains(strings.Split(imp, "/")[0], ".") && !under(imp, more) {
				t.Errorf("%s imports %s: from elsewhere it may import %v", name, imp, more)
			}
		}
	}
}

type listed struct {
	ImportPath string
	Imports    []string
}

func listPackages(t *testing.T) (all []listed) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for in := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := in.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// rowOf gives the longest row that a package is at or, except for the kernel's leaves, below.
func rowOf(name string) string {
	for p := name; p != ""; {
		if _, ok := mayImport[p]; ok && (p == name || p != "kernel" && p != "sdk") {
			return p
		}
		i := strings.LastIndex(p, "/")
		if i < 0 {
			return name
		}
		p = p[:i]
	}
	return name
}

func rowOfThirdParty(row string) string {
	if strings.HasPrefix(row, "kernel/") {
		return "kernel"
	}
	return row
}

func under(name string, allowed []string) bool {
	return slices.ContainsFunc(allowed, func(a string) bool { return name == a || strings.HasPrefix(name, a+"/") && a != "sdk" })
}
