package embedded

import (
	"context"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// stream is a server stream whose context also ends when the server stops.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s stream) Context() context.Context { return s.ctx }

// endWithServer ends watches and lease renewals when the server stops, with the error that makes clients come
// back later. Otherwise etcd waits 7 s for them to end by themselves, which they never do.
func (s *Server) endWithServer(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	err := handle(srv, stream{ss, ctx})
	if s.stopping.Err() != nil {
		return rpctypes.ErrGRPCStopped
	}
	return err
}
