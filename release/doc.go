// Package release says what a release is: its manifest, the index of its files, the recipe it runs by, the
// strategy it rolls out with, and the provenance statement that is signed over it.
//
// # Trust
//
// A [Manifest] has exactly one encoding ([Manifest.Encode]); [ParseManifest] refuses every other one. So the
// bytes that were signed, the bytes that are stored and the value a program holds always say the same thing.
// A signature is made over a [Statement] (in-toto Statement v1 with a SLSA v1 provenance predicate) whose
// subjects are the manifest and the artifact, both by SHA-256; [Statement.Check] compares all of it. The
// manifest in turn binds the artifact's [Index] by digest, and the index binds every chunk and file. Signing
// and verifying envelopes is internal/identity's; packing and unpacking is internal/artifact's.
//
// # Untrusted input
//
// Everything here may come from the network. Parsers bound what they read ([MaxManifest], [MaxStatement]),
// paths pass [CheckPath] and [CheckLink] before they reach a file system, and what is wrong with a recipe is
// reported as [FieldError] values that name the field, so that a decoder can point at the line.
//
// The package is pure: standard library only, no I/O, no clock. All functions are safe for concurrent use.
package release
