// Package freeport finds loopback ports that stay free until somebody listens on them.
//
// Binding port 0 and closing it again yields a port from the range that the kernel gives to outgoing connections:
// under load one of those takes it before it is used. Ports from here are below that range, so only a program
// that asks for the very number can.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
)

// The ports tried are from lowest up to where the kernel's own range begins (usualStart when that is unknown).
const (
	lowest     = 10_000
	usualStart = 32_768
	tries      = 200
)

// ErrNone says that no free port was found.
var ErrNone = errors.New("no free port")

// Loopback returns "127.0.0.1:PORT" of a port that nobody listens on. Two calls may return the same port until it is
// listened on, which is unlikely: ports are drawn at random. It is safe for concurrent use.
func Loopback() (string, error) {
	high := kernelStart()
	var last error
	for range tries {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(high-lowest)))
		if err != nil {
			last = err
			continue
		}
		addr := l.Addr().String()
		return addr, l.Close()
	}
	return "", fmt.Errorf("%w between %d and %d: %w", ErrNone, lowest, high, last)
}

// kernelStart is where the range for outgoing connections begins (Linux; ip(7), ip_local_port_range).
func kernelStart() int {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return usualStart
	}
	return parseStart(string(text))
}

func parseStart(text string) int {
	var start int
	if _, err := fmt.Sscan(strings.TrimSpace(text), &start); err != nil || start < lowest+1000 || start > 65535 {
		return usualStart
	}
	return start
}
