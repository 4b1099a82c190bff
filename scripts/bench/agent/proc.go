package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is what the kernel says of a process (proc(5)).
type usage struct {
	rss, rssAnon float64 // bytes
	cpu          time.Duration
	threads      int
	wakeups      int64 // voluntary context switches of the threads that live
}

func look(pid int) (usage, error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	var u usage
	status, err := readStatus(filepath.Join(dir, "status"))
	if err != nil {
		return u, err
	}
	u.rss, u.rssAnon, u.threads = 1024*status["VmRSS"], 1024*status["RssAnon"], int(status["Threads"])
	if u.cpu, err = cpuTime(filepath.Join(dir, "stat")); err != nil {
		return u, err
	}
	tasks, err := filepath.Glob(filepath.Join(dir, "task", "*", "status"))
	if err != nil {
		return u, err
	}
	for _, task := range tasks {
		s, err := readStatus(task)
		if err != nil {
			return u, err
		}
		u.wakeups += int64(s["voluntary_ctxt_switches"])
	}
	return u, nil
}

// readStatus reads the fields of a status file that are numbers.
func readStatus(path string) (map[string]float64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	fields := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		if words := strings.Fields(rest); len(words) > 0 {
			if n, err := strconv.ParseFloat(words[0], 64); err == nil {
				fields[name] = n
			}
		}
	}
	return fields, nil
}

// cpuTime adds user and system time, in ticks of 1/100 s on every Linux that Go runs on.
func cpuTime(path string) (time.Duration, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold anything; utime and stime are fields 14 and 15, state is 3.
	words := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(words) < 13 {
		return 0, fmt.Errorf("%s has %d fields after the name", path, len(words))
	}
	utime, err := strconv.ParseInt(words[11], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	stime, err := strconv.ParseInt(words[12], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return time.Duration(utime+stime) * 10 * time.Millisecond, nil
}
