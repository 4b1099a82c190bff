package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/murmuration/murmuration/internal/durable"
	"github.com/murmuration/murmuration/release"
)

const runFile = "run.json"

// runRecord is run.json: every process that may be running, and the sockets they were given.
type runRecord struct {
	Boot      string     `json:"boot"`
	Instances []instance `json:"instances"`
	Sockets   []socket   `json:"sockets,omitempty"`
}

// instance is one process on record. PID is 0 between the record before the fork and the one after.
type instance struct {
	Mark    string `json:"mark"`
	Release string `json:"release"`
	PID     int    `json:"pid,omitempty"`
	Start   uint64 `json:"start,omitempty"` // clock ticks since boot
}

// saveErr writes which processes may be running, nil ones left out, and which sockets they may have: those held
// and those given.
func (p *Process) saveErr(socks []socket, procs ...*proc) error {
	p.mu.Lock()
	rec := runRecord{Boot: bootID(), Sockets: slices.Clone(p.socks)}
	p.mu.Unlock()
	for _, s := range socks {
		if !slices.ContainsFunc(rec.Sockets, func(have socket) bool { return have.Inode == s.Inode }) {
			rec.Sockets = append(rec.Sockets, s)
		}
	}
	for _, q := range procs {
		if q == nil {
			continue
		}
		in := instance{Mark: q.mark, Release: q.release, PID: q.pid}
		if q.pid != 0 {
			in.Start, _ = startTicks(q.pid)
		}
		rec.Instances = append(rec.Instances, in)
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("record what runs: %w", err)
	}
	if err := durable.WriteFile(p.root, runFile, b, 0o600); err != nil {
		return fmt.Errorf("record what runs: %w", err)
	}
	return nil
}

// save is saveErr where a failure leaves a record that is still true of more than what runs.
func (p *Process) save(procs ...*proc) {
	if err := p.saveErr(nil, procs...); err != nil {
		p.log.Error("write run.json", "err", err)
	}
}

// Adopt implements [Runner]. The process must be of spec's release and all its sockets must be had back. Otherwise
// it is stopped, the sockets that were had back are kept open, and the caller starts the release on them.
func (p *Process) Adopt(ctx context.Context, spec Spec) (bool, error) {
	rec, err := p.loadRecord()
	if err != nil {
		return false, err
	}
	found := p.findAll(rec, spec)
	socks, err := reclaimAll(rec.Sockets, spec, found)
	if err != nil {
		p.log.Warn("cannot take all sockets over: the service is restarted", "err", err)
	}
	var mine *proc
	for _, q := range found {
		if mine == nil && q.release == spec.Release && err == nil {
			mine = q
			continue
		}
		q.stop(ctx, spec.stopTimeout())
	}
	p.mu.Lock()
	p.socks = socks
	p.mu.Unlock()
	if mine == nil {
		return false, nil
	}
	p.install(spec, mine, socks)
	return true, nil
}

func (p *Process) loadRecord() (runRecord, error) {
	var rec runRecord
	b, err := p.root.ReadFile(runFile)
	if errors.Is(err, fs.ErrNotExist) {
		return rec, nil
	}
	if err != nil {
		return rec, fmt.Errorf("read what ran: %w", err)
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		p.log.Error("run.json is damaged: looking for processes by their mark only", "err", err)
		return runRecord{}, nil
	}
	return rec, nil
}

// findAll returns every live process of the service: those on record and those only their mark betrays.
func (p *Process) findAll(rec runRecord, spec Spec) []*proc {
	strays := marked(lookup(spec.Env, "MURMUR_ROOT"), spec.Service)
	var found []*proc
	for _, in := range rec.Instances {
		if pid, ok := strays[in.Mark]; ok {
			delete(strays, in.Mark)
			in.PID, in.Start = pid, 0
		} else if rec.Boot != bootID() {
			continue
		}
		if q, err := hold(in); err == nil {
			found = append(found, q)
		}
	}
	for mark, pid := range strays {
		if q, err := hold(instance{Mark: mark, PID: pid}); err == nil {
			p.log.Warn("found a process nobody recorded: stopping it", "pid", pid)
			found = append(found, q)
		}
	}
	return found
}

// hold opens a process on record if it is still the same one.
func hold(in instance) (*proc, error) {
	if in.PID == 0 {
		return nil, errGone
	}
	q, err := open(in.PID, false)
	if err != nil {
		return nil, err
	}
	// Asked after the pidfd was opened, so the answer is about the process it holds.
	if start, live := startTicks(in.PID); !live || in.Start != 0 && start != in.Start {
		_ = q.pidfd.Close()
		return nil, errGone
	}
	q.release, q.mark = in.Release, in.Mark
	go q.watch()
	return q, nil
}

// reclaimAll fetches a socket for each of spec's ports out of whichever process has it. With an error it returns
// those it could have.
func reclaimAll(had []socket, spec Spec, from []*proc) (socks []socket, err error) {
	if len(from) == 0 {
		return nil, nil
	}
	for _, port := range spec.Ports {
		s, portErr := reclaimPort(had, port, from)
		if portErr != nil {
			err = errors.Join(err, portErr)
			continue
		}
		socks = append(socks, s)
	}
	return socks, err
}

func reclaimPort(had []socket, port release.Port, from []*proc) (socket, error) {
	err := fmt.Errorf("port %q was not among the sockets on record", port.Name)
	for _, s := range had {
		if !s.sameListen(port) {
			continue
		}
		for _, q := range from {
			if err = s.reclaim(q); err == nil {
				return s, nil
			}
		}
	}
	return socket{}, err
}

// Found says what of the service whose folder root is runs now, by its record alone. It changes nothing.
func Found(root *os.Root) Status {
	b, err := root.ReadFile(runFile)
	if err != nil {
		// Not a process: commands that ran during this boot count as running, see Commands.
		boot, err := root.ReadFile(bootFile)
		return Status{Running: err == nil && string(boot) == bootID()}
	}
	var rec runRecord
	if err := json.Unmarshal(b, &rec); err != nil || rec.Boot != bootID() {
		return Status{}
	}
	for _, in := range rec.Instances {
		if start, live := startTicks(in.PID); in.PID != 0 && live && start == in.Start {
			return Status{Running: true, Release: in.Release, PID: in.PID, Addrs: addrs(rec.Sockets)}
		}
	}
	return Status{}
}
