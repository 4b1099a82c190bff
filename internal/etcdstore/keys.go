package etcdstore

import (
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/murmuration/murmuration/internal/record"
)

// keys spells every key this package uses.
type keys struct{ prefix string }

func (k keys) record(key record.Key) string {
	return k.prefix + "r/" + string(key.Kind) + "/" + key.ID
}

// records is the range [start, end) of a kind's records whose ID starts with prefix.
func (k keys) records(kind record.Kind, prefix string) (start, end string) {
	start = k.prefix + "r/" + string(kind) + "/" + prefix
	return start, clientv3.GetPrefixRangeEnd(start)
}

// span is the smallest range that holds all records of all kinds given.
func (k keys) span(kinds []record.Kind) (start, end string) {
	for _, kind := range kinds {
		s, e := k.records(kind, "")
		if start == "" || s < start {
			start = s
		}
		end = max(end, e)
	}
	return start, end
}

// parse is the inverse of record; ok is false for what is no record.
func (k keys) parse(key string) (parsed record.Key, ok bool) {
	rest, ok := strings.CutPrefix(key, k.prefix+"r/")
	if !ok {
		return record.Key{}, false
	}
	kind, id, ok := strings.Cut(rest, "/")
	parsed = record.Key{Kind: record.Kind(kind), ID: id}
	return parsed, ok && parsed.Valid() == nil
}

// election is the prefix of an election's candidates.
func (k keys) election(name string) string { return k.prefix + "e/" + name + "/" }
