package agent

import "path"

// ownDir is the agent's own folder below its root.
const ownDir = ".murmur"

// artifactPath is where a release's artifact is kept, relative to the root.
func artifactPath(id string) string { return path.Join(ownDir, "artifacts", id+".tar.zst") }
