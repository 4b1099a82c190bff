// Package tracker tells hosts about each other: an HTTP tracker (BEP 3, compact replies of BEP 23, IPv6 of BEP 7, scrape of
// BEP 48), and the same choice of peers for pushing over agent sessions.
//
// # Who may ask
//
// Every host has its own secret announce key in the URL path. A torrent exists only when [Config.Known] says so. A host is one
// peer per torrent, at the address its request came from: the ip parameter is ignored. Refusals are
// bencoded failure reasons with status 200, as clients expect, and every host has a request rate.
//
// # Who is told about whom
//
// The peers of a torrent stand on a ring, ordered by rack and then by host, both hashed with the seed. A host is told
// about, in this order, until the wanted number is reached:
//
//  1. its successor on the ring, so that the links of all hosts together are one cycle whatever else is chosen;
//  2. one peer that has everything, when there is one;
//  3. a third from other racks, the rest from its own rack; what one side cannot give, the other does.
//
// Within 3 the choice is a fixed set of random distances along the ring, equal for all hosts, so every peer is named about as
// often as any other. Locality is a preference: no rack is ever cut off. A peer that has everything is told
// only about peers that have not.
//
// # Time
//
// A peer that announces is forgotten after [Config.PeerTTL] without announce. A peer put in by [Tracker.Register], fed by a
// live session, stays until [Tracker.Forget]. [Tracker.Purge] removes what is over; requests call it about once a minute.
//
// All methods are safe for concurrent use; nothing here blocks on I/O, and there are no goroutines.
package tracker
