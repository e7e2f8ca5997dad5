package rotator

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const (
	dateGlob = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
	dateExpr = `(\d{4}-\d{2}-\d{2})`
)

// family is all files of one template, with {path} filled in:
//
//	dir/server_2026-01-31.log          of the day
//	dir/server_2026-01-31.1.log        rolled
//	dir/server_2026-01-31.1.log.gz     compressed
//	dir/server_2026-01-31.1.log.gz.tmp being compressed
type family struct {
	key       string // the template
	dated     bool   // it has {date}
	stem, ext string // of key; rolled files have their number in between
	glob      string
	expr      *regexp.Regexp

	tidying, again bool // the mutex of File's
}

var dates = regexp.MustCompile(dateExpr)

// logFile is one file of a family.
type logFile struct {
	path   string
	day    string // "": the template has no date
	number int    // 0: not rolled
	suffix string // "", ".gz" or ".gz.tmp"
	info   os.FileInfo
}

// familyKey fills in {path}. Elements of a page's name that mean a directory above or the same are made harmless.
func familyKey(template, page string) string {
	template, page = strings.ToValidUTF8(template, "\uFFFD"), strings.ToValidUTF8(page, "\uFFFD")
	if !strings.Contains(template, "{path}") {
		return filepath.Clean(template)
	}
	var elems []string
	for elem := range strings.SplitSeq(page, "/") {
		switch elem {
		case "":
			continue
		case ".", "..":
			elem = strings.Repeat("_", len(elem))
		}
		elems = append(elems, elem)
	}
	name := strings.NewReplacer("\x00", "_", "{date}", "_date_").Replace(strings.Join(elems, "/"))
	if name == "" {
		name = "_"
	}
	return filepath.Clean(strings.ReplaceAll(template, "{path}", name))
}

func newFamily(key string) *family {
	ext := filepath.Ext(key)
	if strings.Contains(ext, "{") {
		ext = ""
	}
	stem := strings.TrimSuffix(key, ext)
	expr := func(s string) string { return strings.ReplaceAll(regexp.QuoteMeta(s), `\{date\}`, dateExpr) }
	glob := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, "{date}", dateGlob)
	return &family{key: key, dated: strings.Contains(key, "{date}"), stem: stem, ext: ext, glob: glob.Replace(stem) + "*",
		expr: regexp.MustCompile(`^` + expr(stem) + `(?:\.(?P<number>[1-9]\d{0,8}))?` + expr(ext) + `(?P<suffix>\.gz(?:\.tmp)?)?$`)}
}

// path is the file that takes the lines of a day.
func (fam *family) path(day string) string { return strings.ReplaceAll(fam.key, "{date}", day) }

// rolled is the file of a day with a number.
func (fam *family) rolled(day string, number int) string {
	return strings.ReplaceAll(fam.stem, "{date}", day) + "." + strconv.Itoa(number) + fam.ext
}

// match tells whether a path is one of the family's.
func (fam *family) match(path string) (logFile, bool) {
	m := fam.expr.FindStringSubmatch(path)
	if m == nil {
		return logFile{}, false
	}
	file := logFile{path: path, suffix: m[fam.expr.SubexpIndex("suffix")]}
	if fam.dated {
		file.day = m[1]
	}
	base := fam.path(file.day)
	if number := m[fam.expr.SubexpIndex("number")]; number != "" {
		file.number, _ = strconv.Atoi(number)
		base = fam.rolled(file.day, file.number)
	}
	// what is compressed but has no number is not ours; a template may have two dates, which are the same
	return file, base+file.suffix == path && (file.number > 0 || file.suffix == "")
}

// list finds the regular files of the family.
func (fam *family) list() ([]logFile, error) {
	paths, err := filepath.Glob(fam.glob)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", fam.key, err)
	}
	var files []logFile
	for _, path := range paths {
		file, ok := fam.match(path)
		if !ok {
			continue
		}
		if file.info, err = os.Lstat(path); err == nil && file.info.Mode().IsRegular() {
			files = append(files, file)
		}
	}
	return files, nil
}
