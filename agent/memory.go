package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"google.golang.org/protobuf/proto"

	"github.com/murmuration/murmuration/internal/durable"
	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
)

// memory is agent.json: what the agent was told last. It acts on it after a restart, with or without a network.
type memory struct {
	// Desired is the last order obeyed, encoded; its Order is the newest seen.
	Desired []byte `json:"desired,omitempty"`
}

const memoryFile = ownDir + "/agent.json"

func loadMemory(root *os.Root) (*murmurv1.Desired, error) {
	d := new(murmurv1.Desired)
	b, err := root.ReadFile(memoryFile)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return d, fmt.Errorf("read what the agent was told: %w", err)
	}
	var m memory
	if err := json.Unmarshal(b, &m); err != nil {
		return d, fmt.Errorf("%s is damaged: remove it, the control plane will say everything again: %w", memoryFile, err)
	}
	if err := proto.Unmarshal(m.Desired, d); err != nil {
		return new(murmurv1.Desired), fmt.Errorf("%s is damaged: remove it, the control plane will say everything again: %w", memoryFile, err)
	}
	return d, nil
}

func saveMemory(root *os.Root, d *murmurv1.Desired) error {
	b, err := proto.Marshal(d)
	if err != nil {
		return fmt.Errorf("remember the order: %w", err)
	}
	text, err := json.Marshal(memory{Desired: b})
	if err != nil {
		return fmt.Errorf("remember the order: %w", err)
	}
	if err := durable.WriteFile(root, memoryFile, text, 0o600); err != nil {
		return fmt.Errorf("remember the order: %w", err)
	}
	return nil
}
