#!/bin/sh
# Runs from the new release before anything changes: a release that is not whole never starts.
set -eu
test -x ./hello
test -s ./static/about.txt
echo "release $MURMUR_RELEASE of $MURMUR_SERVICE is whole; replaces ${MURMUR_PREVIOUS:-nothing}"
