// Package build turns a commit into a published release.
//
// A build is a straight line, and every step of it either succeeds or fails the whole build with one clear
// error; nothing half-made is ever published:
//
//	queue -> clean checkout -> murmur.yaml -> the recipe's command -> pack -> manifest -> sign -> upload -> publish
//
// # What a build may touch
//
// A build runs a command that somebody pushed. It gets a folder of its own (checkout, HOME and TMPDIR are in
// it), a clean environment, and no terminal. Three things bound it:
//
//   - A supervisor process stands between the builder and the command. It holds one end of a pipe whose other
//     end is the builder's: when the builder cancels, times out or dies, the pipe ends and the supervisor kills
//     the command and everything it started, including what daemonised (on Linux the supervisor is their
//     subreaper). So no build outlives its builder.
//   - On Linux, Landlock confines the command: it writes below its own folder, to the usual null devices and to
//     the folders the operator named ([Builder.Writable]), nowhere else, and it can't read the files the
//     operator hides ([Builder.Hide]: the signing key). A kernel without Landlock is said in the build's log; see
//     [ConfineAlways] to refuse instead. Landlock bounds files, not the network and not pathname
//     sockets: a builder that can reach a container engine's socket gives that reach to its builds.
//   - Time ([release.Build.Timeout]), disk ([release.Build.MaxOutput], measured while the command runs, and as a
//     limit on any single file) and log ([MaxLog]) are limited; passing a limit ends the build.
//
// The supervisor and the confined child are this same program started again, so every binary (and test binary)
// that builds calls [MaybeSandboxChild] first in main.
//
// # The same twice
//
// The same commit and the same recipe give the same artifact digest as long as the command is deterministic:
// files keep their modes, times are the commit's, SOURCE_DATE_EPOCH is set, the work folder has a fixed inner
// layout, and packing sorts and zeroes. The work folder's path differs between builds; a command that writes its
// own path into its output (Go: use -trimpath) is not deterministic.
//
// # The queue
//
// A [Queue] is a folder per repository: jobs/NNN-<build id>.json waits or runs, done/<build id>.json is finished,
// log/<build id>.log is the log. Adding takes a short lock and one durable write. Draining holds another lock,
// so one repository builds one commit at a time, in the order of arrival, whoever started the drainer. A job
// found started but not finished was interrupted: it is tried once more and then recorded as failed. A control
// plane that can't be reached loses nothing: the job stays in the queue.
package build
