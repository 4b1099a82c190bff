// Package darkmode is the client that services import to read flags: is this on for this user, on this host,
// now? It answers from memory, in nanoseconds, with or without a network.
//
//	flags := darkmode.New(darkmode.Config{
//		Name:      "search",
//		Servers:   []string{"https://flagd.example:8443"},
//		Token:     token,
//		CopyFile:  "/var/cache/search/flags",
//		Bootstrap: shipped, // go:embed flags.json
//	})
//	flags.Start(ctx)
//	defer flags.Close()
//
//	var searchV2 = flags.BoolFlag("search.v2", false) // once
//	if searchV2.On(userID) { ... }                    // a million times a second
//
// # The order of truth
//
// New answers at once, from the best of what is there:
//
//  1. memory: the last good state that a server sent;
//  2. the disk copy of it, which is checksummed and replaced atomically, so a restart during an outage goes on
//     where the process before it was;
//  3. the bootstrap state that the program ships;
//  4. the default in the call.
//
// A higher truth replaces a lower one as a whole. A state that does not parse never replaces one that
// does, and a single definition that does not compile leaves its last good form in force. Nothing ever expires: kills
// and modes hold until the server says otherwise, however long that takes. [Client.Status] tells where the
// state comes from and how old it is, and says Stale when the server was not heard of for a while.
//
// # Reading
//
// Bool, String, Int, Float and Object read by key; their Ctx forms take attributes, and their Detail forms tell
// why. A handle ([Client.BoolFlag] and its kin) looks its flag up once and then again whenever the flag
// changes: reading a handle of a dial flag costs one hash and allocates nothing. Every read is safe for concurrent
// use and takes no lock. A read never fails: with no such flag, a value of another type or a missing unit
// it gives the default, and Detail says so.
//
// Unit is the targeting key, usually a user's id. A flag that buckets by an attribute (a host, say) takes it
// from the context's attributes or from [Config.Attributes], which hold for every read of the process.
//
// Schedules are data: the client computes the dial of now by its own clock, so a ramp goes on while the server
// is away.
//
// # Consistency
//
// Flags change one state at a time, by one pointer. Two reads that must agree belong to one flag; handles pick a
// new state up one after the other, microseconds apart. [Client.Subscribe] tells of every change after all
// handles have it.
//
// # The network
//
// The client listens to flagd's event stream, resumes it by revision, and reads whole snapshots where streams are
// refused. It reconnects with jitter, honours retry: and Retry-After, gives up on a stream that is silent for
// two and a half heartbeats, bounds everything it reads, and takes one request at a time. Events older than the
// state are ignored, as is a kill for a flag whose newer version is known. Counts of evaluations, by
// flag and variant, are sent now and then, so that people can see which flags nobody reads; no unit ever leaves
// the process.
package darkmode
