package dial_test

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/murmuration/murmuration/dial"
)

// TestSaltedVectors holds the precomputed form to the same vectors as the plain one.
func TestSaltedVectors(t *testing.T) {
	file, err := os.Open(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := 0
	for s := bufio.NewScanner(file); s.Scan(); lines++ {
		f := strings.Split(s.Text(), "\t")
		want, err := strconv.ParseUint(f[2], 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		salted := dial.NewSalted(f[0])
		if got := salted.Hash(f[1]); got != uint32(want) {
			t.Errorf("%q salted with %q = %08x, want %08x", f[1], f[0], got, want)
		}
	}
	if lines < 100 {
		t.Fatalf("%d vectors, want at least 100", lines)
	}
}

// TestSaltedAgrees: for any salt, unit and dial the precomputed form answers as the plain one.
func TestSaltedAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		salt, unit := rapid.String().Draw(t, "salt"), rapid.String().Draw(t, "unit")
		d := dial.Dial(rapid.IntRange(0, 10000).Draw(t, "dial"))
		s := dial.NewSalted(salt)
		if got, want := s.Hash(unit), dial.Hash(salt, unit); got != want {
			t.Fatalf("Hash = %08x, want %08x", got, want)
		}
		if got, want := s.On(d, unit), d.On(salt, unit); got != want {
			t.Fatalf("On = %v, want %v", got, want)
		}
		if got, want := d.Has(dial.Hash(salt, unit)), d.On(salt, unit); got != want {
			t.Fatalf("Has = %v, want %v", got, want)
		}
	})
}

// TestHasAtTheEdges: the hashes on either side of a bucket's border.
func TestHasAtTheEdges(t *testing.T) {
	for _, d := range []dial.Dial{0, 1, 2, 3333, 5000, 9999, 10000} {
		first := uint32((uint64(d)<<32 + 9999) / 10000) // the first hash outside, where there is one
		if d > 0 && !d.Has(first-1) {
			t.Errorf("dial %d: its last hash is outside", d)
		}
		if d < dial.Full && d.Has(first) {
			t.Errorf("dial %d: hash %08x is inside", d, first)
		}
	}
}

func BenchmarkSaltedOn(b *testing.B) {
	s := dial.NewSalted("checkout-v2")
	b.ReportAllocs()
	for b.Loop() {
		s.On(5000, "user-1234567")
	}
}
