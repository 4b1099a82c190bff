// Package identity says who is who in a fleet and who may do what: the fleet's certificate authority, the identity of
// hosts, the keys of builders, people and their roles, and the audit chain.
//
// # Certificates
//
// A [CA] issues certificates to hosts and seeders. Who the holder is stands in a URI name,
// "murmur://host/<id>" or "murmur://seeder/<id>", read by [PeerOf]; nothing else in a certificate says who
// somebody is. All TLS is version 1.3, made by [ServerConfig], [PeerServerConfig], [PeerClientConfig] and
// [SeederClientConfig]. A host gets its first certificate by [Join], for a one-time token that carries the
// fingerprint of the CA: nobody is trusted on first use.
//
// # Builder keys
//
// A [Signer] signs the provenance of releases (DSSE over an in-toto statement, ed25519). Which keys a fleet trusts,
// for which services and refs, is a [Bundle] signed by the CA; [Trust] verifies it, never goes back to an
// older one, and decides whether a release may be installed.
//
// # People and programs
//
// An [Authority] keeps users, log-ins, API tokens, join tokens and revocations in the store. Its
// [Authority.Interceptor] authenticates every request and authorises it by one table; a procedure without
// a line in the table is denied. Handlers find the [Caller] in their context.
//
// # Audit
//
// [Authority.Commit] commits a change and its audit record in one transaction. Records form a hash chain:
// [Authority.VerifyAudit] finds a record that was changed, removed or inserted. Someone who can write the
// whole store can also write a new chain; export it ([Authority.ExportAudit]) to where they cannot.
//
// # Secrets
//
// Of passwords, tokens and sessions only hashes are stored; keys are in files of mode 0600. No error, log
// line or audit record of this package holds a secret.
//
// # Testing against it
//
// New(Config{Store: memstore.New(), CA: ca}) with a CA from [NewCA] is a whole authority; for cheap
// password hashes set Config.Password.
package identity
