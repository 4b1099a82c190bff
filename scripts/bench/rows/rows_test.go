package rows

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReport(t *testing.T) {
	all := []Row{First("go run ./x", 3), New("some", "murmur", "p99_ms", 1.25, "ms")}
	out := filepath.Join(t.TempDir(), "out", "bench", "x.json")
	var table strings.Builder
	if err := Report(&table, all, out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(table.String(), "1.250") {
		t.Errorf("the table lacks the value:\n%s", table.String())
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var back []Row
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, back); diff != "" {
		t.Errorf("rows read back (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(back[0].Unit, "rounds: ") || back[0].Value != 3 {
		t.Errorf("first row %+v", back[0])
	}
}
