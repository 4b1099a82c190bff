// Package artifact packs a folder into a release's artifact file, reads and unpacks it, and finds what two
// artifacts have in common.
//
// # The file
//
// An artifact is an ordinary .tar.zst: "zstd -dc FILE | tar x" reads it. Inside it is arranged so that equal
// content gives equal bytes, wherever and whenever it was packed:
//
//	frame 0 | frame 1 | ... | frame n-1 | skippable frame with the index
//
// The tar stream is POSIX ustar: entries sorted by path (bytewise), times zero, owner and group 0, permission
// bits as found. A pax header goes before an entry only where ustar has no room (a path or link target that is
// longer than 100 bytes or not ASCII, a size of 8 GiB or more). The stream ends with two zero blocks. It is a
// pure function of the list of files and their content, which is what lets [Unpack] compare every header byte
// with what the index demands instead of obeying a tar parser.
//
// The stream is cut by content-defined chunking (FastCDC, Xia et al., USENIX ATC 2016; least 32 KiB, about
// 128 KiB on average, most 512 KiB), so an insertion changes the chunks around it and no others. Each chunk is
// a zstd frame (RFC 8878) of its own, made by one encoder thread at a fixed level. Frames follow each other
// without gaps. The last frame is skippable (magic 0x184D2A50); its payload is [release.Index] as JSON,
// zstd-compressed. The byte-for-byte promise holds for one version of the compressor; another may make
// other frames of the same chunks, which costs reuse and nothing else.
//
// # Why one pass is enough
//
// The signed manifest binds the index by SHA-256, and the index binds every chunk of the tar stream by
// SHA-256 and size. [ReadIndex] checks that the frames cover the file from 0 to the index and that the chunks
// add up to the whole stream. So once every chunk has been decoded and its digest compared, every byte that
// reaches the disk is proved; hashing the compressed file as well ([VerifyFile]) would prove the encoding of
// those same bytes, which no one looks at again. Digests of single files are claims of the index about bytes
// already proved; [Verify], which a seeder runs before it publishes, checks those claims too, once for all.
//
// # Limits
//
// All sizes are bounded before anything is allocated or decoded: a frame is decoded into a buffer of exactly
// its chunk's size, so it cannot swell; [Unpack] holds one compressed and one raw chunk per worker. Files are
// only ever opened through os.Root. Devices, sockets and pipes cannot be packed; set-id files are refused.
package artifact
