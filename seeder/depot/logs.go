package depot

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
)

const (
	// maxLog bounds one build's log, maxLogPart one append or one message of a watch, in bytes.
	maxLog     = 64 << 20
	maxLogPart = 256 << 10
)

// logCut is the last line of a log that was longer.
const logCut = "\n[the log is cut here: it is longer than 64 MiB]\n"

func logName(build string) string { return logDir + "/" + build + ".log" }

// buildLog wakes the watchers of one build.
type buildLog struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced by wake
}

// log returns what wakes the watchers of a build that exists.
func (d *Depot) log(build string) *buildLog {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.logs[build]
	if l == nil {
		l = &buildLog{changed: make(chan struct{})}
		d.logs[build] = l
	}
	return l
}

// forgetLog lets go of an ended build and wakes its watchers. Those that come later just make another.
func (d *Depot) forgetLog(build string) {
	l := d.log(build)
	d.mu.Lock()
	delete(d.logs, build)
	d.mu.Unlock()
	l.wake()
}

// next returns a channel that is closed when the log or the build changes.
func (l *buildLog) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *buildLog) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

// logSize returns how long a build's log is; 0 when there is none here.
func (d *Depot) logSize(build string) int64 {
	info, err := d.root.Lstat(logName(build))
	if err != nil {
		return 0
	}
	return info.Size()
}

// appendLog appends data that belongs at offset and returns how long the log is for the builder. Bytes that came
// before are not written twice; bytes that would leave a gap are not written, and the size says from where to
// send. Appends are short, so one lock for all logs does. Beyond maxLog bytes are taken and thrown away, so that a chatty build does not fail by its log.
func (d *Depot) appendLog(build string, offset int64, data []byte) (int64, error) {
	d.appending.Lock()
	defer d.appending.Unlock()
	f, err := d.root.OpenFile(logName(build), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if size >= maxLog {
		return offset + int64(len(data)), nil
	}
	if offset > size || offset+int64(len(data)) <= size {
		return size, nil
	}
	data = data[size-offset:]
	room := maxLog - int64(len(logCut)) - size
	if int64(len(data)) <= room {
		_, err = f.Write(data)
		return size + int64(len(data)), err
	}
	end := size + int64(len(data))
	data = append(data[:max(room, 0):max(room, 0)], logCut...)
	_, err = f.Write(data)
	if err == nil {
		err = f.Truncate(maxLog) // exactly, so that the log counts as full
	}
	return end, err
}

// readLog reads up to maxLogPart bytes of a log from offset; nothing at its end or when there is none.
func (d *Depot) readLog(build string, offset int64) ([]byte, error) {
	f, err := d.root.Open(logName(build))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, maxLogPart)
	n, err := f.ReadAt(buf, offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return buf[:n], err
}
