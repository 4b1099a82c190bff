// Package version holds the version that the build stamped into a binary.
package version

// Version is set by the linker (see the Makefile); "dev" in a plain go build.
var Version = "dev"
