package freeport

import (
	"net"
	"strconv"
	"testing"
)

func TestLoopbackPortsAreOutsideTheKernelsRange(t *testing.T) {
	for range 20 {
		addr, err := Loopback()
		if err != nil {
			t.Fatal(err)
		}
		_, text, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		if port, err := strconv.Atoi(text); err != nil || port < lowest || port >= kernelStart() {
			t.Errorf("%s is not below %d", addr, kernelStart())
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Errorf("%s was said to be free: %v", addr, err)
			continue
		}
		l.Close()
	}
}

func TestParseStart(t *testing.T) {
	for text, want := range map[string]int{
		"32768\t60999\n": 32768, "20000 60999": 20000, "": usualStart, "garbage": usualStart, "1024 65535": usualStart, "99999 1": usualStart,
	} {
		if got := parseStart(text); got != want {
			t.Errorf("parseStart(%q) = %d, want %d", text, got, want)
		}
	}
}
