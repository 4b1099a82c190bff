// Package record is the vocabulary of everything Murmuration stores: what a store is, which kinds of record
// there are, and what each looks like on disk.
//
// Two stores implement [Store]: internal/etcdstore (production and `murmur up`) and internal/memstore (tests
// and tools). internal/storetest is the contract they both pass. Only a store spells its own keys; everyone
// else names a record by [Key].
//
// Stored forms are separate from domain types, so that the domain can change without a migration: each form
// is a struct here with a version field "v", an encoder and a decoder that accepts every version ever
// written. testdata/golden holds one file per form and version; a test decodes them all, so a change that
// would lose an old record fails before it ships. New fields must have a useful zero value.
package record
