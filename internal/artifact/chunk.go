package artifact

// Chunk sizes in bytes. They are part of the format: changing one loses the reuse between artifacts packed
// before and after, nothing else.
const (
	minChunk = 32 << 10
	avgChunk = 128 << 10
	// MaxChunk is the largest chunk of a tar stream.
	MaxChunk = 512 << 10
)

// The two masks of FastCDC's normalised chunking (level 2): a cut is hard to find before the average size
// and easy after it. They select the top bits of the hash, which depend on the last 64 bytes.
const (
	maskHard = uint64(1<<19-1) << (64 - 19)
	maskEasy = uint64(1<<15-1) << (64 - 15)
)

// gearTable is the hash of each byte value: the output of splitmix64 (Steele, Lea, Flood, 2014) from seed 1.
var gearTable = makeGear()

func makeGear() (table [256]uint64) {
	var state uint64 = 1
	for i := range table {
		state += 0x9e3779b97f4a7c15
		z := state
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		table[i] = z ^ z>>31
	}
	return table
}

// cut returns the length of the first chunk of data: MaxChunk bytes of lookahead are needed unless data is all
// there is. (The FastCDC library in the module graph rewrites a package variable in every constructor, a data
// race between two concurrent packs, so these few lines are our own.)
func cut(data []byte) int {
	if len(data) <= minChunk {
		return len(data)
	}
	data = data[:min(len(data), MaxChunk)]
	normal := min(len(data), avgChunk)
	var hash uint64
	for i := minChunk; i < normal; i++ {
		if hash = hash<<1 + gearTable[data[i]]; hash&maskHard == 0 {
			return i + 1
		}
	}
	for i := normal; i < len(data); i++ {
		if hash = hash<<1 + gearTable[data[i]]; hash&maskEasy == 0 {
			return i + 1
		}
	}
	return len(data)
}
