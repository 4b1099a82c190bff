package hooks

import (
	"context"
	"fmt"
)

// Resolve turns what a person types into what a builder needs: the full id of a commit, and the full name of
// the ref to sign for. An empty ref means the branch that is checked out; without one (a detached head, or a
// repository nobody works in) the ref must be named.
func Resolve(ctx context.Context, repo, commit, ref string) (id, fullRef string, err error) {
	id, err = git(ctx, repo, "rev-parse", "--verify", "--quiet", "--end-of-options", commit+"^{commit}")
	if err != nil {
		return "", "", fmt.Errorf("%q names no commit in %s", commit, repo)
	}
	if ref == "" {
		ref = "HEAD"
	}
	fullRef, err = git(ctx, repo, "rev-parse", "--symbolic-full-name", "--verify", "--quiet", "--end-of-options", ref)
	if err != nil || fullRef == "" || fullRef == "HEAD" {
		return "", "", fmt.Errorf("cannot tell which ref of %s commit %.10s belongs to: name one with --ref, for example --ref refs/heads/main", repo, id)
	}
	return id, fullRef, nil
}
