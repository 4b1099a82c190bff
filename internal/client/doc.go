// Package client is how the command line, hooks and builders reach the API: where the server is, who we are, and what
// to tell a person when it does not work.
//
// [Load] reads the file of contexts and the environment, [New] makes a [Client] with the generated Connect clients and
// [Client.UploadArtifact], [Explain] turns any error of theirs into what to do next. Connections trust
// the fleet CA of the context and nothing else when one is given. The token travels in the Authorization
// header only, over https only (plain http is for loopback addresses).
package client
