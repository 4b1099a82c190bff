// Package embedded runs an etcd server inside this process: the store of `murmur up`, of small installations
// and of tests. It imports the whole server, so only commands that start one import it.
//
// Without Config.ClientAddr the server listens on two Unix sockets in its own folder and on no network at all:
// who may enter the folder (mode 0700) may use the store. With it the server listens there, with mutual TLS
// when certificates are given; without certificates only a loopback address is accepted.
//
// One server owns a folder: a lock beside the data makes a second one fail at once. The data outlives the
// server; starting again on the same folder continues where it stopped. There is one member only: who
// needs more availability than one machine has runs etcd itself, as its own documentation says.
package embedded
