// Package flagd is the darkmode flag service: it follows the store, keeps the compiled flags in memory and on
// disk, answers evaluations, and pushes every change to connected clients.
//
// Reads never wait for the store. A server that lost it goes on with what it knows, from memory or after a
// restart from its disk copy, and says how old that is. Writes go through the store's compare-and-swap, with
// history and audit in the same transaction; without the store they end as unavailable.
//
// # Authentication
//
// Every route but /healthz and /readyz needs an identity: `Authorization: Bearer TOKEN` (an API token or log-in of
// role viewer or higher), `X-API-Key: TOKEN`, or the TLS certificate of a host or seeder of the fleet. Tokens
// never ride in a URL; the only credential that does is the ticket of an OFREP event stream, which can do
// nothing but listen for "something changed" and ends within 24 hours. While the store is away, readers
// that this server let in during the last 24 hours are let in again.
//
// # Native protocol
//
// All bodies are JSON in UTF-8. Flags and segments are the JSON of feature.Flag and feature.Segment. Every answer
// to a read carries `X-Murmur-Revision: N`; when the store was not heard of for 15 s also `X-Murmur-Age: S`
// (whole seconds since) and `Warning: 110 - "Response is Stale"`. Errors of /v1 are
//
//	{"error":{"code":"FLAG_NOT_FOUND","message":"..."}}
//
// with status 400 (PARSE_ERROR, INVALID_CONTEXT, TARGETING_KEY_MISSING), 401 (UNAUTHENTICATED), 403 (FORBIDDEN),
// 404 (FLAG_NOT_FOUND, NOT_FOUND), 413 (TOO_LARGE), 429 (RATE_LIMITED), 503 (UNAVAILABLE). 429 and 503 have a
// jittered `Retry-After` in whole seconds. Clients ignore fields and events they do not know.
//
//	GET /v1/flags/{key}?unit=U&attr.NAME=VALUE...
//
// evaluates for curl and scripts. unit is the targeting key; each attr.NAME is a text attribute, unless the name is
// written attr.NAME:number or attr.NAME:boolean. A parameter given twice or of another name is a
// PARSE_ERROR. 200: {"key","variant","value","reason","version","revision"}.
//
//	GET /v1/snapshot
//
// 200: {"revision":N,"flags":[...],"segments":[...]} with a strong `ETag`; If-None-Match is answered 304;
// gzip when Accept-Encoding allows it. Flags whose stored definition does not compile are there in their last
// good form, or absent.
//
//	GET /v1/stream?since=N&client=NAME
//
// is text/event-stream. client (1 to 128 bytes, for people; optional) names the program. `Last-Event-ID: N` wins
// over since; without either, or with 0, a whole state comes first. Events, each with one line of data:
//
//	retry: MILLISECONDS            once, first, jittered (1,000 to 5,000) for each stream
//	event: hello                   {"stream":"ID","revision":N,"heartbeat_ms":15000}
//	event: reset   id: N           the snapshot: it replaces everything the client has
//	event: delta   id: N           {"revision":N,"flags":[...],"segments":[...],"dropped_flags":["key"...],
//	                                "dropped_segments":["key"...],"ack":true}; absent lists are empty
//	event: kill    (no id)         {"revision":N,"flags":[...],"ack":true}
//	: hb                           a comment, 15 s after the last write
//
// After hello come a reset (since unknown, too old, or newer than this server after waiting 2 s to catch up) or
// the deltas since then, if any; then changes as they happen. A revision is that of the store's commit, so
// it stays valid on every replica and across restarts. Deltas come in order; one delta is one commit (or what
// a lost watch missed) and is applied whole. A stream that is behind gets kills ahead of its queued deltas,
// as kill events; the delta itself follows in its place. Hence one rule for clients: from kill and delta, take
// a flag only when its version is not lower than the one held. A flag's version never goes back, even when
// it is deleted and made again; a reset takes everything as it is. A schedule pushes nothing: clients compute
// the dial from the time.
//
// A client whose connection takes nothing for 10 s is cut. Streams are ended after about an hour (jittered) so that
// balancers can rebalance; reconnecting with Last-Event-ID costs nothing. 503 with Retry-After means that
// the server has all the streams it wants, or more are arriving than it admits at once: wait that long,
// and poll /v1/snapshot meanwhile if need be.
//
//	POST /v1/streams/{id}/ack      {"revision":N}
//
// says that the stream's client now uses revision N. It is asked for by "ack":true, which deltas and kills of killed
// flags carry; it may be sent for others. 204; 404 when the stream is over (ignore it).
//
//	POST /v1/usage                 {"client":"NAME","counts":[{"flag":"KEY","variant":"on","count":17}]}
//
// reports evaluations made in the client since its last report; at most 10,000 counts and 1 MiB. 204.
//
// # OFREP
//
// OpenFeature Remote Evaluation Protocol 0.3: POST /ofrep/v1/evaluate/flags/{key}, POST /ofrep/v1/evaluate/flags
// and the event stream that the latter names. A killed flag answers its off value with reason STATIC, never
// DISABLED, which would have SDKs use the code's default. Every answer has variant (on success) and metadata
// (version, revision, killed), errors too; integers are printed without, floats with a decimal point; a missing,
// null or empty context is fine; TARGETING_KEY_MISSING is for flags that must split.
//
// The ETag of a bulk answer is `"<revision>-<hash>"`, where the hash covers the canonical context, which definition of
// each flag and segment is in force, and the dials that schedules give at this moment. So it is right on any
// replica, changes when a schedule moves, and If-None-Match is answered 304 before anything is evaluated.
// With ?flagConfigEtag= a server that is behind that revision waits until it has caught up, at most 2 s.
// Event streams send refetchEvaluation once at every connect, at every change, and when a schedule moves a dial.
//
// # Writes
//
// murmur.v1.FlagService over Connect, gRPC and gRPC-Web, authorised like all services. PutFlag with another version
// than the stored one ends as Aborted with a FlagConflict. Kills are not validated, retry until they win, and
// are written 40 flags to a transaction. Versions are kept for ever and never reused.
//
// # What is remembered
//
// The disk copy (flags.copy: one line with version, SHA-256 and length, then JSON) is written at every change through
// internal/durable, and is used whole or not at all. It holds the definitions in force with their revisions, the
// digests of credentials that could read lately, the secret of the tickets, and when each flag was last
// read here. Counts of evaluations are this server's and in memory; a page that asks several servers adds
// them up. Checked credentials are believed for a second.
//
// # Testing
//
// [Server.Handler] can be asked directly; internal/memstore gives a store whose faults are chosen. The tests against
// etcd are left out by -short.
//
// # Concurrency
//
// One goroutine applies what the store's watch delivers and swaps one pointer; requests load it. Streams have no
// queue of their own: each remembers the revision it has written and reads on from a shared ring of
// encoded deltas, so a slow one costs nothing and the bytes of a change are made once.
package flagd
