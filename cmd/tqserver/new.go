package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/config"
	"github.com/tqserver/tqserver/sdk"
)

//go:embed all:site
var siteFiles embed.FS

// sdkDir is where a new site keeps the worker package, so that it builds without a network.
const sdkDir = "third_party/tqserver"

func newNew(*app) *cobra.Command {
	return &cobra.Command{
		Use:     "new DIR",
		Short:   "Make a site to start from: it builds and runs without a network",
		Example: "  tqserver new mysite && tqserver -C mysite",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := makeSite(args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "made a site in %s: run it with `tqserver -C %s`, then edit pages/index/main.go\n", args[0], args[0])
			return nil
		},
	}
}

// makeSite fills a directory that is empty or does not exist.
func makeSite(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make site: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("make site: %s is not empty: name a new directory", dir)
	}
	files, err := siteContent(moduleName(dir))
	if err != nil {
		return fmt.Errorf("make site: %w", err)
	}
	for name, content := range files {
		to := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return fmt.Errorf("make site: %w", err)
		}
		if err := os.WriteFile(to, content, 0o644); err != nil {
			return fmt.Errorf("make site: %w", err)
		}
	}
	return nil
}

// siteContent gives the files of a new site by their slash paths.
func siteContent(module string) (map[string][]byte, error) {
	files := map[string][]byte{
		config.DefaultPath: config.DefaultYAML,
		sdkDir + "/go.mod": []byte("module github.com/tqserver/tqserver\n\ngo 1.26\n"),
	}
	err := fs.WalkDir(sdk.WorkerSource, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[path.Join(sdkDir, "sdk", name)], err = sdk.WorkerSource.ReadFile(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return files, fs.WalkDir(siteFiles, "site", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := siteFiles.ReadFile(name)
		if err != nil {
			return err
		}
		to := strings.TrimPrefix(name, "site/")
		if bare, ok := strings.CutSuffix(to, ".tmpl"); ok {
			to = bare
			content, err = expand(name, string(content), module)
		}
		files[to] = content
		return err
	})
}

func expand(name, text, module string) ([]byte, error) {
	t, err := template.New(name).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]string{"Module": module})
	return b.Bytes(), err
}

// moduleName makes a module path of a directory's name.
func moduleName(dir string) string {
	abs, err := filepath.Abs(dir)
	if err != nil {
		abs = dir
	}
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, filepath.Base(abs))
	if name = strings.Trim(name, "-_."); name == "" {
		return "site"
	}
	return name
}
