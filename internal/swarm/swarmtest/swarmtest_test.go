package swarmtest_test

import (
	"testing"

	"github.com/murmuration/murmuration/internal/swarm"
	"github.com/murmuration/murmuration/internal/swarm/swarmtest"
)

var _ swarmtest.Swarm = (*swarm.Engine)(nil)

func TestLoopbackKeepsTheContract(t *testing.T) {
	net := swarmtest.NewLoopback()
	swarmtest.Run(t, func(testing.TB) swarmtest.Swarm { return net.Engine() })
}
