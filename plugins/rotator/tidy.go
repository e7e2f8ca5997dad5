package rotator

import (
	"cmp"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// tidy has a family put in order in the background. It is called with the mutex held.
func (f *File) tidy(fam *family) {
	switch {
	case f.closed: // the next start does it
	case fam.tidying:
		fam.again = true
	default:
		fam.tidying = true
		f.work.Go(func() { f.tidyUp(fam) })
	}
}

func (f *File) tidyUp(fam *family) {
	f.slots <- struct{}{}
	defer func() { <-f.slots }()
	for again := true; again; {
		f.mu.Lock()
		fam.again = false
		config, files, err := f.config, []logFile(nil), f.rollOldDays(fam)
		if err == nil {
			files, err = f.own(fam)
		}
		f.mu.Unlock()
		if err == nil {
			err = f.tidyFiles(fam, config, files)
		}
		if err != nil && !errors.Is(err, errClosed) {
			f.log.Warn("tidy up log files; tried again when one rolls or the day changes", "log", fam.key, "error", err)
		}
		f.mu.Lock()
		again = fam.again && err == nil
		fam.tidying = again
		f.mu.Unlock()
	}
}

// rollOldDays numbers the files of days that are over and that nobody writes to any more, also from before the start.
func (f *File) rollOldDays(fam *family) error {
	files, err := fam.list()
	if err != nil {
		return err
	}
	for _, file := range files {
		if file.number > 0 || file.day == "" || file.day >= today() || f.open[file.path] != nil {
			continue
		}
		if err := fam.rename(file.day); err != nil {
			return err
		}
	}
	return nil
}

// own lists the rolled files of a family, without those to which another template writes: with logs/{path}.log the
// page "a.1" writes to what looks like a rolled file of the page "a".
func (f *File) own(fam *family) ([]logFile, error) {
	files, err := fam.list()
	return slices.DeleteFunc(files, func(file logFile) bool {
		return file.number == 0 || f.families[file.path] != nil || f.families[dates.ReplaceAllString(file.path, "{date}")] != nil
	}), err
}

// tidyFiles removes what is too old or too much, and compresses the rest. One file that cannot be dealt with does not
// keep the others.
func (f *File) tidyFiles(fam *family, config FileConfig, files []logFile) error {
	slices.SortFunc(files, func(a, b logFile) int { // newest first
		return cmp.Or(cmp.Compare(b.day, a.day), cmp.Compare(b.number, a.number), cmp.Compare(a.suffix, b.suffix))
	})
	var errs []error
	kept, last := 0, logFile{}
	for _, file := range files {
		if file.suffix == ".gz.tmp" {
			errs = append(errs, removeStale(file.path))
			continue
		}
		if file.number != last.number || file.day != last.day {
			kept++
		}
		last = file
		tooMany := config.Keep > 0 && kept > config.Keep
		tooOld := config.MaxAgeDays > 0 && time.Since(file.info.ModTime()) > time.Duration(config.MaxAgeDays)*24*time.Hour
		switch {
		case tooMany || tooOld:
			errs = append(errs, fam.remove(file.path))
		case config.Compress && file.suffix == "":
			errs = append(errs, f.compress(file.path))
		}
	}
	return errors.Join(errs...)
}

// remove also removes the directory of a day when it was the last file there.
func (fam *family) remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if strings.Contains(filepath.Base(filepath.Dir(fam.key)), "{date}") {
		_ = os.Remove(filepath.Dir(path)) // not empty: stays
	}
	return nil
}

// removeStale removes what a compression that was killed left behind. One that is under way holds the lock.
func removeStale(tmp string) error {
	source, err := lock(strings.TrimSuffix(tmp, ".gz.tmp"))
	if source != nil {
		defer source.Close()
	}
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = os.Remove(tmp)
	}
	if errors.Is(err, errLocked) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

var errLocked = errors.New("locked")

// lock opens a rolled file for this process alone: while a plugin is being replaced there are two of them.
func lock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, errLocked
	}
	return file, nil
}

// compress makes path.gz of path. At any moment there is the one or the other, whole; both after a crash in between,
// and then it is done once more.
func (f *File) compress(path string) error {
	source, err := lock(path)
	if errors.Is(err, errLocked) || errors.Is(err, os.ErrNotExist) {
		return nil // another process does it, or did
	}
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(now, info) {
		return nil
	}
	tmp := path + ".gz.tmp"
	if err := f.zip(tmp, source, info); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path+".gz"); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Remove(path)
}

// zip writes a whole file. It gets the time of the source, by which its age counts.
func (f *File) zip(path string, source io.Reader, info os.FileInfo) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	w := gzip.NewWriter(out)
	w.ModTime = info.ModTime()
	_, err = io.Copy(w, &stoppable{source, f.stop})
	err = cmp.Or(err, w.Close())
	err = cmp.Or(err, out.Sync(), out.Close())
	if err != nil {
		out.Close()
		return err
	}
	return os.Chtimes(path, info.ModTime(), info.ModTime())
}

// stoppable reads until stop is closed.
type stoppable struct {
	r    io.Reader
	stop <-chan struct{}
}

func (s *stoppable) Read(b []byte) (int, error) {
	select {
	case <-s.stop:
		return 0, errClosed
	default:
		return s.r.Read(b)
	}
}
