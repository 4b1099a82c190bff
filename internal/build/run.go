package build

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

const (
	// maxCommand bounds a build command, in bytes; Linux takes at most 128 KiB in one argument.
	maxCommand = 64 << 10
	// supervisorGrace is how long the supervisor has to end everything before it is killed itself.
	supervisorGrace = killGrace + 5*time.Second
	// diskEvery is the shortest pause between two measurements of the disk a build fills.
	diskEvery = 200 * time.Millisecond
)

// command is one run of a recipe's build command.
type command struct {
	sandboxSpec
	env     []string
	timeout time.Duration
	// disk is the folder measured against maxDisk, in bytes.
	disk    string
	maxDisk int64
	log     *logFile
}

// run runs the command to its end and ends everything it started. The error wraps [ErrTimeout], [ErrTooLarge],
// [ErrLogFull] or the cause of ctx's end, or says how the command failed.
func (c command) run(ctx context.Context) error {
	if len(c.Command) > maxCommand {
		return fmt.Errorf("build.command is %d bytes, the limit is %d: put it in a script", len(c.Command), maxCommand)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, stop := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("%w: build.timeout is %s", ErrTimeout, c.timeout))
	defer stop()
	c.log.onFull(func(err error) { cancel(err) })
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if err := c.watchDisk(ctx); err != nil {
			cancel(err)
		}
	}()
	exit, err := c.supervised(ctx)
	why := context.Cause(ctx) // before stop makes one up
	stop()
	<-watched
	if err == nil {
		err = c.judge(exit)
	}
	if why != nil {
		return why
	}
	if err != nil {
		return err
	}
	return c.checkDisk()
}

// judge turns the command's end into an error, and notes what it left behind.
func (c command) judge(exit sandboxExit) error {
	if exit.Left > 0 {
		c.log.say("ended %d processes the build left running", exit.Left)
	}
	last := c.log.lastLine()
	if last != "" {
		last = "; its last line: " + last
	}
	switch {
	case exit.Survived:
		return errors.New("processes of the build could not be ended; look for them on the builder")
	case exit.Signal == syscall.SIGXFSZ.String():
		return fmt.Errorf("%w: it wrote a file over build.max_output (%d bytes)", ErrTooLarge, c.FileSize)
	case exit.Signal != "":
		return fmt.Errorf("the build command was ended by signal %q%s", exit.Signal, last)
	case exit.Code != 0:
		return fmt.Errorf("the build command failed with exit status %d%s", exit.Code, last)
	}
	return nil
}

// supervised starts the supervisor and waits for it. When ctx ends, the lifeline is cut.
func (c command) supervised(ctx context.Context) (sandboxExit, error) {
	s, err := c.start()
	if err != nil {
		return sandboxExit{}, err
	}
	defer s.close()
	go func() {
		// Copying ends when the last process that can write has ended.
		_, _ = io.Copy(c.log, s.output)
		close(s.drained)
	}()
	go s.readStatus(c.log)
	ended := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
		case <-ended:
			return
		}
		s.lifeline.Close()
		select {
		case <-time.After(supervisorGrace):
			_ = s.cmd.Process.Kill()
		case <-ended:
		}
	}()
	waitErr := s.cmd.Wait()
	close(ended)
	s.drain()
	switch st := <-s.status; {
	case st.Exit != nil:
		return *st.Exit, nil
	case st.Error != "":
		return sandboxExit{}, errors.New(st.Error)
	case waitErr != nil:
		return sandboxExit{}, fmt.Errorf("the build's supervisor ended: %w", waitErr)
	}
	return sandboxExit{}, errors.New("the build's supervisor ended without a result: does main call build.MaybeSandboxChild?")
}

// supervision is a running supervisor and the builder's ends of its pipes.
type supervision struct {
	cmd      *exec.Cmd
	lifeline *os.File
	output   *os.File
	state    *os.File
	drained  chan struct{}
	// status gets one value, the last one told, when the pipe ends.
	status chan sandboxStatus
}

func (c command) start() (*supervision, error) {
	if os.Getenv(sandboxEnv) != "" {
		return nil, errors.New("this program's main must call build.MaybeSandboxChild first")
	}
	spec, err := json.Marshal(c.sandboxSpec)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program to start the build's supervisor: %w", err)
	}
	var pipes [6]*os.File
	for i := 0; i < len(pipes); i += 2 {
		if pipes[i], pipes[i+1], err = os.Pipe(); err != nil {
			closeAll(pipes[:]...)
			return nil, fmt.Errorf("start the build: %w", err)
		}
	}
	stdin, lifeline, output, out, state, status := pipes[0], pipes[1], pipes[2], pipes[3], pipes[4], pipes[5]
	cmd := exec.Command(exe, sandboxMarker, "supervise", string(spec))
	cmd.Dir, cmd.Env = c.Dir, append(slices.Clone(c.env), sandboxEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, out, out
	cmd.ExtraFiles = []*os.File{status}
	// A group of its own, so that Ctrl-C reaches only the builder, which then ends the build in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	closeAll(stdin, out, status)
	if err != nil {
		closeAll(lifeline, output, state)
		return nil, fmt.Errorf("start the build's supervisor: %w", err)
	}
	return &supervision{
		cmd: cmd, lifeline: lifeline, output: output, state: state,
		drained: make(chan struct{}), status: make(chan sandboxStatus, 1),
	}, nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// readStatus notes in the log how the command is confined and keeps what was told last.
func (s *supervision) readStatus(log *logFile) {
	var last sandboxStatus
	lines := bufio.NewScanner(io.LimitReader(s.state, 1<<20))
	for lines.Scan() {
		var st sandboxStatus
		if json.Unmarshal(lines.Bytes(), &st) != nil {
			continue
		}
		switch {
		case st.Confined != "":
			log.say("confined by %s: writes stay in the build's own folder", st.Confined)
		case st.Unconfined != "":
			log.say("WARNING: this build is not confined and may write anywhere its user may: %s", st.Unconfined)
		case st.Error != "":
			last = st
		case last.Error == "":
			last = st
		}
	}
	s.status <- last
}

// drain waits until all output is in the log. A process that got away may hold the pipe open: then not for long.
func (s *supervision) drain() {
	select {
	case <-s.drained:
	case <-time.After(supervisorGrace):
		_ = s.output.Close()
		<-s.drained
	}
}

func (s *supervision) close() { closeAll(s.lifeline, s.output, s.state) }

// watchDisk measures until ctx ends; the error wraps [ErrTooLarge].
func (c command) watchDisk(ctx context.Context) error {
	for pause := diskEvery; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		started := time.Now()
		if err := c.checkDisk(); err != nil {
			return err
		}
		// A large tree takes long to measure; spend at most a tenth of the time on it.
		pause = max(diskEvery, 9*time.Since(started))
	}
}

func (c command) checkDisk() error {
	if used := diskUse(c.disk); c.maxDisk > 0 && used > c.maxDisk {
		return fmt.Errorf("%w: %d bytes, build.max_output is %d", ErrTooLarge, used, c.maxDisk)
	}
	return nil
}

// diskUse adds up the blocks of everything below dir. Files that come and go meanwhile are no error.
func diskUse(dir string) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += st.Blocks * 512
			}
		}
		return nil
	})
	return sum
}
