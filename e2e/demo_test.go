package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestStory plays the demo's story with the real binaries: every step must hold.
func TestStory(t *testing.T) {
	if testing.Short() {
		t.Skip("the story takes more than a minute")
	}
	t.Parallel()
	dir := folder(t)
	cmd := exec.Command("murmur", "demo", "--story", "--json", "--dir", filepath.Join(dir, "demo"))
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("the story: %v\n%s", err, said.String())
	}
	last, steps := "", 0
	for line := range strings.Lines(string(out)) {
		var step struct {
			Step   string `json:"step"`
			OK     bool   `json:"ok"`
			Detail string `json:"detail"`
		}
		if err := json.Unmarshal([]byte(line), &step); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if !step.OK {
			t.Errorf("%s: %s", step.Step, step.Detail)
		}
		last, steps = step.Step, steps+1
	}
	if last != "story" || steps < 12 {
		t.Errorf("%d steps, the last is %q", steps, last)
	}
	if left := processesBelow(dir); len(left) > 0 {
		t.Errorf("the story left processes: %v", left)
	}
}
