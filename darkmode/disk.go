package darkmode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/murmuration/murmuration/internal/durable"
)

// A disk copy is one line of header and a body:
//
//	murmuration-flags 1 SHA256-OF-THE-BODY-IN-HEX
//	{"revision":...,"flags":[...],"segments":[...],"as_of":"..."}
//
// The number is the version of the format. A copy of another version is left alone and not used.
const (
	copyMagic   = "murmuration-flags"
	copyVersion = "1"
	copyPerm    = 0o600
)

// ErrCopyDamaged is wrapped by the error for a disk copy that is torn, changed or of another format.
var ErrCopyDamaged = errors.New("the disk copy is damaged and is not used")

// diskCopy is the last good state on disk.
type diskCopy struct {
	path  string
	limit int // bytes
}

// load reads the copy. Its revision is 0 when there is none.
func (d *diskCopy) load() (snapshot, error) {
	f, err := os.Open(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return snapshot{}, nil
	}
	if err != nil {
		return snapshot{}, fmt.Errorf("load flags: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(d.limit)+1))
	if err != nil {
		return snapshot{}, fmt.Errorf("load flags: %w", err)
	}
	if len(data) > d.limit {
		return snapshot{}, fmt.Errorf("load flags from %s: over %d bytes: %w", d.path, d.limit, ErrCopyDamaged)
	}
	snap, err := decodeCopy(data)
	if err != nil {
		return snapshot{}, fmt.Errorf("load flags from %s: %w", d.path, err)
	}
	return snap, nil
}

func decodeCopy(data []byte) (snapshot, error) {
	header, body, _ := bytes.Cut(data, []byte("\n"))
	fields := bytes.Fields(header)
	if len(fields) != 3 || string(fields[0]) != copyMagic {
		return snapshot{}, fmt.Errorf("it does not start as a disk copy does: %w", ErrCopyDamaged)
	}
	if string(fields[1]) != copyVersion {
		return snapshot{}, fmt.Errorf("its format is %q, this program knows %s: %w", fields[1], copyVersion, ErrCopyDamaged)
	}
	if sum := checksum(body); string(fields[2]) != sum {
		return snapshot{}, fmt.Errorf("the checksum is %s, should be %s: %w", sum, fields[2], ErrCopyDamaged)
	}
	snap, err := decodeSnapshot(body)
	if err != nil {
		return snapshot{}, errors.Join(err, ErrCopyDamaged)
	}
	return snap, nil
}

func encodeCopy(s snapshot) ([]byte, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode flags: %w", err)
	}
	return fmt.Appendf(nil, "%s %s %s\n%s", copyMagic, copyVersion, checksum(body), body), nil
}

func checksum(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// save replaces the copy; a crash leaves the old or the new one.
func (d *diskCopy) save(s snapshot) error {
	data, err := encodeCopy(s)
	if err != nil {
		return err
	}
	dir, name := filepath.Split(d.path)
	if dir == "" {
		dir = "."
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save flags: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("save flags: %w", err)
	}
	defer root.Close()
	if err := durable.WriteFile(root, name, data, copyPerm); err != nil {
		return fmt.Errorf("save flags in %s: %w", dir, err)
	}
	return nil
}

// saveEvery is the least time between two writes of the copy; saveAgain, when a write failed. saveJitter keeps the
// programs of one machine from writing all at once, and takes the first changes of a burst together.
const (
	saveEvery  = time.Second
	saveAgain  = 10 * time.Second
	saveJitter = 100 * time.Millisecond
)

// runSaver writes the copy after changes, several of a burst at once.
func (c *Client) runSaver(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return // Close writes the last one
		case <-c.save:
		}
		if !sleep(ctx, rand.N(saveJitter)) {
			return
		}
		wait := saveEvery
		if err := c.saveCopy(); err != nil {
			c.cfg.Logger.Error("flags: the disk copy could not be written; the old one stays", "err", err)
			c.wantSave()
			wait = saveAgain
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// saveCopy writes the state that a server sent; others are on disk or in the program already.
func (c *Client) saveCopy() error {
	s := c.state.Load()
	if c.copy == nil || s.source != FromServer {
		return nil
	}
	snap := s.snapshot()
	snap.AsOf = c.Status().AsOf
	return c.copy.save(snap)
}

// sleep waits and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
