package artifact

import "github.com/murmuration/murmuration/release"

// Segment is a run of bytes that two artifact files have in common.
type Segment struct {
	// New and Old are where the run starts in each file, Size its length in bytes.
	New, Old, Size int64
}

// Offsets returns where each frame starts in the artifact file, with one element more: where the index starts.
func Offsets(idx release.Index) []int64 {
	offsets := make([]int64, len(idx.Chunks)+1)
	for i, c := range idx.Chunks {
		offsets[i+1] = offsets[i] + c.FrameSize
	}
	return offsets
}

// ReuseFrames returns which bytes of a new artifact can be copied from the file of an old one, in order and
// with neighbours joined: every frame whose chunk the old artifact holds too, in a frame of the same size. Same
// chunk and same size mean the same bytes unless the two were packed by different versions of the compressor,
// so whoever copies must still check what was built, as the piece hashes of a torrent do.
func ReuseFrames(newIdx, oldIdx release.Index) []Segment {
	type frame struct {
		raw  release.Digest
		size int64
	}
	have := make(map[frame]int64, len(oldIdx.Chunks))
	oldAt := Offsets(oldIdx)
	for i, c := range oldIdx.Chunks {
		have[frame{c.Raw, c.FrameSize}] = oldAt[i]
	}
	var segments []Segment
	var at int64
	for _, c := range newIdx.Chunks {
		if old, ok := have[frame{c.Raw, c.FrameSize}]; ok {
			if n := len(segments); n > 0 && segments[n-1].New+segments[n-1].Size == at && segments[n-1].Old+segments[n-1].Size == old {
				segments[n-1].Size += c.FrameSize
			} else {
				segments = append(segments, Segment{New: at, Old: old, Size: c.FrameSize})
			}
		}
		at += c.FrameSize
	}
	return segments
}
