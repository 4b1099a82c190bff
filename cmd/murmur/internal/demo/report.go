package demo

import (
	"encoding/json"
	"fmt"
	"io"
)

// Result is one verified step of the story, as --json prints it.
type Result struct {
	Step    string  `json:"step"`
	OK      bool    `json:"ok"`
	Seconds float64 `json:"seconds"`
	Detail  string  `json:"detail"`
}

// reporter prints steps as they end.
type reporter struct {
	w      io.Writer
	json   bool
	failed bool
}

func (r *reporter) print(res Result) {
	r.failed = r.failed || !res.OK
	if r.json {
		line, err := json.Marshal(res)
		if err == nil {
			fmt.Fprintf(r.w, "%s\n", line)
		}
		return
	}
	mark := "ok  "
	if !res.OK {
		mark = "FAIL"
	}
	fmt.Fprintf(r.w, "%s %7.2fs  %-32s %s\n", mark, res.Seconds, res.Step, res.Detail)
}

// say prints a line for people only.
func (r *reporter) say(format string, args ...any) {
	if !r.json {
		fmt.Fprintf(r.w, format+"\n", args...)
	}
}
