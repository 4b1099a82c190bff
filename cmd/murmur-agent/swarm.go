package main

import (
	"context"
	"fmt"
	"io"

	"github.com/murmuration/murmuration/agent"
	"github.com/murmuration/murmuration/internal/swarm"
)

// swarmAdapter is the swarm's engine as the agent wants it.
type swarmAdapter struct{ engine *swarm.Engine }

func (s swarmAdapter) spec(a agent.Artifact) (swarm.Spec, error) {
	meta, err := swarm.ParseInfo(a.Info)
	if err != nil {
		return swarm.Spec{}, err
	}
	if meta.Length != a.Size {
		return swarm.Spec{}, fmt.Errorf("the torrent is of %d bytes, the signed manifest says %d", meta.Length, a.Size)
	}
	spec := swarm.Spec{Info: a.Info, Infohash: a.Infohash, Path: a.Path, Fallback: a.Fallback}
	if a.Reuse != nil {
		spec.Reuse = func(ctx context.Context, w io.WriterAt) ([]swarm.Range, error) {
			filled, err := a.Reuse(ctx, w)
			out := make([]swarm.Range, len(filled))
			for i, r := range filled {
				out[i] = swarm.Range(r)
			}
			return out, err
		}
	}
	return spec, nil
}

func (s swarmAdapter) Fetch(ctx context.Context, a agent.Artifact, progress func(agent.Progress)) error {
	spec, err := s.spec(a)
	if err != nil {
		return err
	}
	return s.engine.Fetch(ctx, spec, func(p swarm.Progress) {
		progress(agent.Progress{
			Done: p.Done, Total: p.Total, FromPeers: p.FromPeers, FromSeeder: p.FromSeeder, FromDisk: p.FromDisk, Fallback: p.Fallback,
		})
	})
}

func (s swarmAdapter) Seed(ctx context.Context, a agent.Artifact) error {
	spec, err := s.spec(a)
	if err != nil {
		return err
	}
	return s.engine.Seed(ctx, spec)
}

func (s swarmAdapter) AddPeers(infohash string, peers []agent.Peer) {
	out := make([]swarm.Peer, len(peers))
	for i, p := range peers {
		out[i] = swarm.Peer(p)
	}
	s.engine.AddPeers(infohash, out)
}

func (s swarmAdapter) Drop(infohash string) { s.engine.Drop(infohash) }
