package swarm_test

import (
	"crypto/tls"
	"path/filepath"
	"testing"

	"github.com/murmuration/murmuration/internal/swarm"
	"github.com/murmuration/murmuration/internal/swarm/swarmtest"
)

// The TLS tests are inside the package; the contract is about everything else, so plaintext will do.
func TestEngineKeepsTheContract(t *testing.T) {
	swarmtest.Run(t, func(tb testing.TB) swarmtest.Swarm {
		e, err := swarm.New(swarm.Config{Dir: filepath.Join(tb.TempDir(), "records"), Listen: "127.0.0.1:0", Name: "host"})
		if err != nil {
			tb.Fatal(err)
		}
		return e
	})
}

func TestNewRefusesHalfAConfiguration(t *testing.T) {
	none := func() (*tls.Config, error) { return &tls.Config{}, nil }
	for name, cfg := range map[string]swarm.Config{
		"no folder":       {Listen: "127.0.0.1:0"},
		"server TLS only": {Dir: t.TempDir(), Listen: "127.0.0.1:0", ServerTLS: none},
		"TLS, no names":   {Dir: t.TempDir(), Listen: "127.0.0.1:0", ServerTLS: none, ClientTLS: none},
		"bad address":     {Dir: t.TempDir(), Listen: "nowhere"},
	} {
		if e, err := swarm.New(cfg); err == nil {
			e.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}
