// Package agent is the host's side of a deployment.
package agent
