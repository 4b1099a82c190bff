package record

import "fmt"

// What one commit may hold. The limits are those of etcd as it comes (128 operations and 1.5 MiB in one
// request), less what the store itself adds: one comparison that proves leadership, keys and framing.
const (
	MaxOps    = 127
	MaxValue  = 1 << 20   // bytes of one value, packed
	MaxCommit = 1_310_720 // bytes of all values and keys of a commit, packed
	MaxRaw    = 16 << 20  // bytes of one value before packing
)

// CheckOps reports whether ops, whose values are already packed, may be committed together: at least one, at
// most [MaxOps], valid keys, no key twice, sizes within [MaxValue] and [MaxCommit], and nothing that
// both writes and deletes. Stores call it before they commit.
func CheckOps(ops []Op) error {
	if len(ops) == 0 || len(ops) > MaxOps {
		return fmt.Errorf("commit of %d ops: 1 to %d are allowed", len(ops), MaxOps)
	}
	seen, size := make(map[Key]bool, len(ops)), 0
	for _, op := range ops {
		if err := op.valid(); err != nil {
			return err
		}
		if seen[op.Key] {
			return fmt.Errorf("commit names %s twice", op.Key)
		}
		seen[op.Key] = true
		size += len(op.Value) + len(op.Key.Kind) + len(op.Key.ID)
	}
	if size > MaxCommit {
		return fmt.Errorf("commit of %d bytes: at most %d are allowed, split it", size, MaxCommit)
	}
	return nil
}

func (op Op) valid() error {
	switch err := op.Key.Valid(); {
	case err != nil:
		return err
	case op.If < Any:
		return fmt.Errorf("commit of %s: condition %d is no revision", op.Key, op.If)
	case op.Delete && op.Value != nil:
		return fmt.Errorf("commit of %s: it cannot be written and deleted at once", op.Key)
	case len(op.Value) > MaxValue:
		return fmt.Errorf("commit of %s: value of %d bytes after compression, at most %d are allowed",
			op.Key, len(op.Value), MaxValue)
	}
	return nil
}

// Conditional reports whether the op has a condition; an op with none always applies.
func (op Op) Conditional() bool { return op.If != Any }

// ElectionValid reports whether an election can be held under that name, with that value published: a name
// of 1 to 64 lower-case letters, digits and hyphens, and at most 4 KiB of value.
func ElectionValid(name, value string) error {
	if name == "" || len(name) > 64 {
		return fmt.Errorf("election %q: a name of 1 to 64 bytes is needed", name)
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("election %q: byte %#x is not allowed", name, c)
		}
	}
	if len(value) > 4<<10 {
		return fmt.Errorf("election %q: value of %d bytes, at most 4096 are allowed", name, len(value))
	}
	return nil
}
