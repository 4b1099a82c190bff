package dial_test

import (
	"bufio"
	"encoding/binary"
	"flag"
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/murmuration/murmuration/dial"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/buckets.tsv anew; a changed line moves real users and hosts")

const vectorFile = "testdata/buckets.tsv"

// TestVectors holds the bucketing function still: salt, unit, hash and bucket of version 1.
func TestVectors(t *testing.T) {
	if *rewrite {
		writeVectors(t)
	}
	file, err := os.Open(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := 0
	for s := bufio.NewScanner(file); s.Scan(); lines++ {
		f := strings.Split(s.Text(), "\t")
		if len(f) != 4 {
			t.Fatalf("line %d: %d fields, want salt, unit, hash, bucket", lines+1, len(f))
		}
		if got := fmt.Sprintf("%08x", dial.Hash(f[0], f[1])); got != f[2] {
			t.Errorf("Hash(%q, %q) = %s, want %s", f[0], f[1], got, f[2])
		}
		if got := strconv.Itoa(int(dial.Bucket(f[0], f[1]))); got != f[3] {
			t.Errorf("Bucket(%q, %q) = %s, want %s", f[0], f[1], got, f[3])
		}
	}
	if lines < 100 {
		t.Fatalf("%d vectors, want at least 100", lines)
	}
}

func writeVectors(t *testing.T) {
	var out strings.Builder
	for _, salt := range []string{"", "checkout-v2", "web", "ünïcode"} {
		for i := range 32 {
			unit := []string{"", "user-" + strconv.Itoa(i), strings.Repeat("x", i), fmt.Sprintf("host-%03d.example", i)}[i%4]
			fmt.Fprintf(&out, "%s\t%s\t%08x\t%d\n", salt, unit, dial.Hash(salt, unit), dial.Bucket(salt, unit))
		}
	}
	if err := os.WriteFile(vectorFile, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestHashKnownAnswers checks against published answers of MurmurHash3_x86_32 with seed 0.
func TestHashKnownAnswers(t *testing.T) {
	for text, want := range map[string]uint32{
		"": 0, "hello": 0x248bfa47, "hello, world": 0x149bbb7f,
		"The quick brown fox jumps over the lazy dog": 0x2e4ff723,
	} {
		for cut := range len(text) + 1 {
			if got := dial.Hash(text[:cut], text[cut:]); got != want {
				t.Errorf("Hash(%q, %q) = %08x, want %08x", text[:cut], text[cut:], got, want)
			}
		}
	}
}

// reference is MurmurHash3_x86_32 written from its definition, apart from the library's.
func reference(data []byte) uint32 {
	const c1, c2 = 0xcc9e2d51, 0x1b873593
	var h uint32
	mix := func(k uint32) uint32 { return bits.RotateLeft32(k*c1, 15) * c2 }
	n := len(data)
	for ; len(data) >= 4; data = data[4:] {
		h = bits.RotateLeft32(h^mix(binary.LittleEndian.Uint32(data)), 13)*5 + 0xe6546b64
	}
	var tail uint32
	for i, b := range data {
		tail |= uint32(b) << (8 * i)
	}
	h ^= mix(tail) ^ uint32(n)
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}

func TestHashAgreesWithReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		salt, unit := rapid.String().Draw(t, "salt"), rapid.String().Draw(t, "unit")
		if got, want := dial.Hash(salt, unit), reference([]byte(salt+unit)); got != want {
			t.Fatalf("Hash = %08x, want %08x", got, want)
		}
		if got, want := uint64(dial.Bucket(salt, unit)), uint64(dial.Hash(salt, unit))*10000/(1<<32); got != want {
			t.Fatalf("Bucket = %d, want %d", got, want)
		}
	})
}

// TestNested: turning a dial up only adds units, and the ends are exact.
func TestNested(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		salt, unit := rapid.String().Draw(t, "salt"), rapid.String().Draw(t, "unit")
		low := dial.Dial(rapid.IntRange(0, 10000).Draw(t, "low"))
		high := dial.Dial(rapid.IntRange(int(low), 10000).Draw(t, "high"))
		if low.On(salt, unit) && !high.On(salt, unit) {
			t.Fatalf("on at %d, off at %d", low, high)
		}
		if dial.Off.On(salt, unit) || !dial.Full.On(salt, unit) {
			t.Fatal("the ends are not exact")
		}
		if b := dial.Bucket(salt, unit); b > 9999 || dial.Dial(b).On(salt, unit) || !dial.Dial(b+1).On(salt, unit) {
			t.Fatalf("bucket %d is not where the unit turns on", b)
		}
	})
}

// TestUniformAndIndependent counts 100,000 units under two salts. The bounds are six standard deviations wide; the
// units are fixed, so the test either always passes or never does.
func TestUniformAndIndependent(t *testing.T) {
	const n = 100_000
	var tenths [10]int
	a, b, both := 0, 0, 0
	for i := range n {
		unit := "user-" + strconv.Itoa(i)
		tenths[dial.Bucket("a", unit)/1000]++
		onA, onB := dial.Dial(3000).On("a", unit), dial.Dial(3000).On("b", unit)
		if onA {
			a++
		}
		if onB {
			b++
		}
		if onA && onB {
			both++
		}
	}
	near := func(what string, got int, want, deviation float64) {
		if d := float64(got) - want; d > 6*deviation || d < -6*deviation {
			t.Errorf("%s: %d, want about %.0f", what, got, want)
		}
	}
	for i, got := range tenths {
		near(fmt.Sprintf("tenth %d", i), got, n/10, 95) // sqrt(n*0.1*0.9)
	}
	near("on at 3000", a, n*0.3, 145)
	near("on at 3000, other salt", b, n*0.3, 145)
	near("on under both salts", both, n*0.09, 91)
}

func TestCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(-5, 20_000).Draw(t, "n")
		d := dial.Dial(rapid.IntRange(0, 9999).Draw(t, "dial"))
		got, more := d.Count(n), (d + 1).Count(n)
		if got < 0 || got > max(n, 0) || more < got {
			t.Fatalf("%d of %d at %s, %d one further", got, n, d, more)
		}
		if n > 0 && d > 0 && got == 0 {
			t.Fatalf("nobody of %d at %s", n, d)
		}
		if dial.Full.Count(n) != max(n, 0) || dial.Off.Count(n) != 0 {
			t.Fatal("the ends are not exact")
		}
	})
}

func TestParse(t *testing.T) {
	for text, want := range map[string]dial.Dial{
		"0": 0, "250": 250, "10000": 10000, "0%": 0, "2.5%": 250, "0.01%": 1, "100%": 10000, "33.33%": 3333, "99.99%": 9999,
	} {
		if got, err := dial.Parse(text); err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "%", "-1", "10001", "1.5", "0.001%", "100.01%", "-1%", "NaN%", "Inf%", "a"} {
		if got, err := dial.Parse(text); err == nil {
			t.Errorf("Parse(%q) = %d, want an error", text, got)
		}
	}
}

// TestParsePercent: what a dial prints as parses to itself.
func TestParsePercent(t *testing.T) {
	for n := range int(dial.Full) + 1 {
		d := dial.Dial(n)
		for _, text := range []string{d.Percent(), d.String()} {
			if got, err := dial.Parse(text); err != nil || got != d {
				t.Fatalf("Parse(%q) = %d, %v, want %d", text, got, err, d)
			}
		}
	}
	if dial.Dial(10001).Valid() || !dial.Full.Valid() {
		t.Error("Valid is wrong at the end")
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"250", "2.5%", "NaN%", "1e2%", "0x10%", "%%", "-0%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if d, err := dial.Parse(text); err == nil && !d.Valid() || err != nil && d != dial.Off {
			t.Fatalf("Parse(%q) = %d, %v", text, d, err)
		}
	})
}

func TestOnAllocatesNothing(t *testing.T) {
	on := false
	if n := testing.AllocsPerRun(100, func() { on = dial.Dial(5000).On("checkout-v2", "user-1234567") || on }); n != 0 {
		t.Errorf("%v allocations per evaluation, want 0", n)
	}
}

func BenchmarkOn(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		dial.Dial(5000).On("checkout-v2", "user-1234567")
	}
}

// TestOpenFeatureVectors checks against the published examples of OpenFeature's fractional operator, version 2
// (flagd's test bed, flag "fractional-flag"): four variants of weight 25 each, so one for every 2500 of ours.
func TestOpenFeatureVectors(t *testing.T) {
	variants := []string{"clubs", "diamonds", "hearts", "spades"}
	for name, want := range map[string]string{
		"jack": "hearts", "queen": "spades", "ten": "clubs", "nine": "diamonds", "3": "clubs",
	} {
		if got := variants[dial.Bucket("fractional-flag", name)/2500]; got != want {
			t.Errorf("%s gets %s, want %s", name, got, want)
		}
	}
}
