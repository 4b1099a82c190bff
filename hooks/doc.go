// Package hooks connects git repositories to Murmuration: it installs git hooks and is what they run.
//
// An installed hook is a small shell script that runs `murmur hooks run NAME ARGS`. Two hooks are known:
//
//   - post-commit, in a repository with a work tree: builds what a developer commits on a deployed branch;
//   - post-receive, in a bare repository: builds the new tip of every deployed branch that was pushed.
//
// Both run after git did its work and can refuse nothing, so [Run] never fails: whatever goes wrong is a warning
// of one line and exit status 0. They do the least that is safe while somebody waits: check the input, queue the
// builds durably (internal/build's Queue), start a drainer that is detached from the terminal and from git's
// pipes, print where to look. No network is asked; a control plane that is away delays the build, not the push.
//
// # Settings
//
// [Install] writes them into the repository's own git configuration, and [Run] reads them from git:
//
//	murmur.refs    patterns of refs to build, several values or separated by spaces; default refs/heads/main and
//	               refs/heads/master. "*" matches within one path component, as path.Match does; a pattern that
//	               ends in "/**" matches everything below.
//	murmur.state   folder of the build queue and logs; default: murmur/ in the git directory
//	murmur.repo    the repository's name in releases; default: the name of its folder
//	murmur.server  base URL of the control plane, for the links that are printed and for the drainer
//
// # Hooks of others
//
// A hook that was there before is kept as NAME.local and run first, with the same arguments and input.
// [Uninstall] puts it back. core.hooksPath is respected; one that several repositories share is only written to
// when asked.
package hooks
