package ofrep

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/murmuration/murmuration/dial"
)

// driver is testdata/js/driver.mjs, running.
type driver struct {
	in  io.Writer
	out *bufio.Reader
}

// startDriver installs the pinned packages and starts the driver with both of its providers ready.
func startDriver(t *testing.T, w *world) *driver {
	t.Helper()
	for _, tool := range []string{"npm", "node"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("OpenFeature's JavaScript providers are not tested: %v (Debian: apt-get install nodejs npm)", err)
		}
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/js")); err != nil {
		t.Fatal(err)
	}
	install := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	// The driver outlives the test's own context, to be told to stop; and not for ever, if it waits for what never comes.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	node := exec.CommandContext(ctx, "node", "driver.mjs")
	node.Dir, node.Stderr = dir, t.Output()
	node.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+w.caFile)
	in, err := node.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	d := &driver{in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		reply[bool](t, d, object{"op": "stop"})
		if err := node.Wait(); err != nil {
			t.Errorf("the driver: %v", err)
		}
	})
	reply[bool](t, d, object{"op": "start", "baseUrl": w.url, "token": w.token, "context": user})
	return d
}

// reply sends one command and reads its answer.
func reply[T any](t *testing.T, d *driver, command object) T {
	t.Helper()
	line, err := json.Marshal(command)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.in.Write(append(line, '\n')); err != nil {
		t.Fatalf("%v: %v", command["op"], err)
	}
	text, err := d.out.ReadBytes('\n')
	if err != nil {
		t.Fatalf("%v: the driver ended: %v", command["op"], err)
	}
	var answer struct {
		OK    T      `json:"ok"`
		Error string `json:"error"`
	}
	if err := json.Unmarshal(text, &answer); err != nil || answer.Error != "" {
		t.Fatalf("%v: %v %s\n%s", command["op"], err, answer.Error, text)
	}
	return answer.OK
}

// exchange is one request of a provider.
type exchange struct {
	Path        string `json:"path"`
	Query       string `json:"query"`
	IfNoneMatch string `json:"ifNoneMatch"`
	Status      int    `json:"status"`
	ETag        string `json:"etag"`
}

// waitExchanges waits for at least n exchanges of the bulk endpoint since it was last called.
func waitExchanges(t *testing.T, d *driver, n int) []exchange {
	t.Helper()
	var all []exchange
	for len(all) < n && t.Context().Err() == nil {
		for _, e := range reply[[]exchange](t, d, object{"op": "exchanges"}) {
			if e.Path == flagsPath {
				all = append(all, e)
			}
		}
	}
	return all
}

// half is the variant that the flag "half" of testdata/flags.json serves to a unit.
func half(unit string) string {
	if halfHas(unit) {
		return "on"
	}
	return "off"
}

func halfHas(unit string) bool { return dial.Dial(5000).On("half", unit) }
