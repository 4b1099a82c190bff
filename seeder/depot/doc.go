// Package depot keeps what builders publish: artifacts on disk, releases and builds as records, build logs. It is
// the ReleaseService of the API and the HTTP routes beside it.
//
// # On disk
//
//	artifacts/<sha256 hex>       whole, checked artifacts; read only
//	uploads/<sha256 hex>.part    what has come of an upload so far
//	logs/<build id>.log          build logs, bounded
//
// An artifact appears under artifacts/ only by a rename after its digest was compared and its bytes were synced, so
// whatever is there is whole. A part survives a crash and is gone on with. All paths are opened through an
// os.Root and named by digests and ids that were parsed before.
//
// # Publishing
//
// BeginUpload declares digest and size; PUT sends bytes from an offset; Publish checks everything before
// anyone can see the release: the manifest's form, the signature and policy (through [Verifier]), the artifact
// against the manifest, its index, and every claim of the index (artifact.Verify). The record is written together
// with its audit record, then [Config.OnPublished] is called. Publishing is idempotent: the same manifest
// answers with the same release, and so does another manifest that says the same service, commit, artifact
// and recipe: building a commit twice gives one release, the first.
//
// # Several seeders
//
// Records are shared, files are not: a seeder that finds a release whose artifact it lacks fetches it as hosts
// do and hands it to [Depot.Import]. [Depot.Retain] may run on any seeder, best on the leader; [Depot.Clean] runs on
// every one. Build logs stay on the seeder that took them.
//
// Authorisation is the caller's: interceptors and middleware in front of the handlers.
package depot
