// Package swarmtest stands in for the swarm in tests of its consumers, without sockets or goroutines of its own, so it works
// inside a synctest bubble.
//
// A [Loopback] is the network: what one [Engine] seeds, every other Engine of the same Loopback can fetch. Faults are
// part of it: [Loopback.Hold] keeps a torrent from moving, [Engine.FailNext] makes the next Fetch fail. [Run] is the
// contract that this fake and the real engine both pass.
package swarmtest

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/murmuration/murmuration/internal/swarm"
)

// Loopback is a network of fake engines. The zero value is not usable; call [NewLoopback].
type Loopback struct {
	mu      sync.Mutex
	sources map[string]string // path by infohash
	held    map[string]bool
	moved   chan struct{} // closed and replaced whenever sources or held change
}

// NewLoopback returns a network in which nobody has anything.
func NewLoopback() *Loopback {
	return &Loopback{sources: map[string]string{}, held: map[string]bool{}, moved: make(chan struct{})}
}

// Register makes the file at path the source of a torrent, as if somebody seeded it.
func (l *Loopback) Register(infohash, path string) {
	l.change(func() { l.sources[infohash] = path })
}

// Hold keeps a torrent from moving: a Fetch waits until [Loopback.Release] or its context ends.
func (l *Loopback) Hold(infohash string) { l.change(func() { l.held[infohash] = true }) }

// Release undoes Hold.
func (l *Loopback) Release(infohash string) { l.change(func() { delete(l.held, infohash) }) }

func (l *Loopback) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.moved)
	l.moved = make(chan struct{})
}

// source waits until the torrent has a source that is not held.
func (l *Loopback) source(ctx context.Context, infohash string) (string, error) {
	for {
		l.mu.Lock()
		path, ok := l.sources[infohash]
		ok = ok && !l.held[infohash]
		moved := l.moved
		l.mu.Unlock()
		if ok {
			return path, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// Engine has the methods of swarm.Engine. It is safe for concurrent use.
type Engine struct {
	net *Loopback

	mu     sync.Mutex
	held   map[string]swarm.Stats
	fail   []error
	told   map[string][]swarm.Peer
	closed bool
}

// Engine returns a new engine on the network.
func (l *Loopback) Engine() *Engine {
	return &Engine{net: l, held: map[string]swarm.Stats{}, told: map[string][]swarm.Peer{}}
}

// FailNext makes the next Fetch return err before anything moves; several calls queue up.
func (e *Engine) FailNext(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fail = append(e.fail, err)
}

// Told returns the peers that AddPeers was given for a torrent, oldest first.
func (e *Engine) Told(infohash string) []swarm.Peer {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]swarm.Peer(nil), e.told[infohash]...)
}

// Addr returns an address that leads nowhere.
func (e *Engine) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// Close makes later calls return swarm.ErrClosed.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	return nil
}

// Fetch copies the registered source to spec.Path after the same checks as the real engine.
func (e *Engine) Fetch(ctx context.Context, spec swarm.Spec, progress func(swarm.Progress)) error {
	meta, err := e.begin(spec)
	if err != nil {
		return err
	}
	if st, ok := e.Stats(spec.Infohash); ok && st.Complete {
		return nil
	}
	source, err := e.net.source(ctx, spec.Infohash)
	if err != nil {
		return fmt.Errorf("swarm: fetch %s: %w", spec.Infohash, err)
	}
	if err := verify(ctx, spec, source); err != nil {
		return err
	}
	content, err := os.ReadFile(source)
	if err != nil {
		return fmt.Errorf("%w: %w", swarm.ErrStorage, err)
	}
	if err := os.WriteFile(spec.Path+".part", content, 0o644); err != nil {
		return fmt.Errorf("%w: %w", swarm.ErrStorage, err)
	}
	if err := os.Rename(spec.Path+".part", spec.Path); err != nil {
		return fmt.Errorf("%w: %w", swarm.ErrStorage, err)
	}
	p := swarm.Progress{Done: meta.Length, Total: meta.Length, FromPeers: meta.Length}
	if progress != nil {
		progress(p)
	}
	e.hold(spec.Infohash, p)
	return nil
}

// Seed makes spec.Path a source for the network after hashing it.
func (e *Engine) Seed(ctx context.Context, spec swarm.Spec) error {
	meta, err := e.begin(spec)
	if err != nil {
		return err
	}
	if err := verify(ctx, spec, spec.Path); err != nil {
		return err
	}
	e.hold(spec.Infohash, swarm.Progress{Done: meta.Length, Total: meta.Length, FromDisk: meta.Length})
	e.net.Register(spec.Infohash, spec.Path)
	return nil
}

// AddPeers remembers peers for [Engine.Told].
func (e *Engine) AddPeers(infohash string, peers []swarm.Peer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.told[infohash] = append(e.told[infohash], peers...)
}

// Drop forgets a torrent.
func (e *Engine) Drop(infohash string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.held, infohash)
}

// Stats returns what Fetch and Seed recorded.
func (e *Engine) Stats(infohash string) (swarm.Stats, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.held[infohash]
	return s, ok
}

func (e *Engine) hold(infohash string, p swarm.Progress) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held[infohash] = swarm.Stats{Progress: p, Complete: true}
}

// begin checks the spec and takes a queued failure.
func (e *Engine) begin(spec swarm.Spec) (swarm.Meta, error) {
	meta, err := swarm.ParseInfo(spec.Info)
	if err != nil {
		return meta, err
	}
	if sum := sha1.Sum(spec.Info); hex.EncodeToString(sum[:]) != spec.Infohash {
		return meta, fmt.Errorf("%w: it does not hash to %s", swarm.ErrBadInfo, spec.Infohash)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return meta, swarm.ErrClosed
	}
	if len(e.fail) > 0 {
		err, e.fail = e.fail[0], e.fail[1:]
		return meta, err
	}
	return meta, nil
}

// verify says whether the file at path is the torrent's.
func verify(ctx context.Context, spec swarm.Spec, path string) error {
	ok, err := swarm.Matches(ctx, spec.Info, path)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: %s", swarm.ErrCorrupt, path)
	}
	return nil
}
