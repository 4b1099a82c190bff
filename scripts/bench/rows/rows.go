// Package rows is the form in which every benchmark reports: a table for people on standard output, and an array
// of rows in a file for machines, the first of which names the machine and the command.
package rows

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
)

// Row is one measured number.
type Row struct {
	Scenario string  `json:"scenario"`
	Subject  string  `json:"subject"`
	Metric   string  `json:"metric"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
}

// New makes a row.
func New(scenario, subject, metric string, value float64, unit string) Row {
	return Row{Scenario: scenario, Subject: subject, Metric: metric, Value: value, Unit: unit}
}

// First is the row that every report begins with: the machine as subject, and the command with how many rounds of
// each subject it ran.
func First(command string, rounds int) Row {
	return Row{Scenario: "machine", Subject: machine(), Metric: "command", Value: float64(rounds), Unit: "rounds: " + command}
}

// machine names what the numbers were measured on.
func machine() string {
	model := "unknown CPU"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				model = strings.TrimSpace(strings.TrimLeft(name, " \t:"))
				break
			}
		}
	}
	return fmt.Sprintf("%s x %d, %s/%s, %s", model, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}

// Report prints the table to w and writes the rows to the file out, whose folder is made when missing.
func Report(w io.Writer, all []Row, out string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "scenario\tsubject\tmetric\tvalue\tunit")
	for _, r := range all {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%.3f\t%s\n", r.Scenario, r.Subject, r.Metric, r.Value, r.Unit)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(out), 0o755), os.WriteFile(out, append(text, '\n'), 0o644))
}
