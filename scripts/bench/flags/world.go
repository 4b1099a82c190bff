package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"connectrpc.com/connect"

	pb "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/wire"
)

// world is an etcd and a flagd in processes of their own, and an operator.
type world struct {
	dir         string
	etcd, flagd *process
	tls         *tls.Config
	operator    murmurv1connect.FlagServiceClient
	http        *http.Client
}

// newWorld starts everything, with the given flags defined.
func newWorld(ctx context.Context, flags []feature.Flag) (*world, error) {
	dir, err := os.MkdirTemp("", "bench-flags-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir}
	if err := w.start(ctx, flags); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) start(ctx context.Context, flags []feature.Flag) error {
	for _, sub := range []string{"etcd", "flagd"} {
		if err := os.MkdirAll(filepath.Join(w.dir, sub), 0o700); err != nil {
			return err
		}
	}
	var err error
	if w.etcd, err = spawn("-what", "etcd", "-dir", filepath.Join(w.dir, "etcd")); err != nil {
		return err
	}
	if err := w.startFlagd("127.0.0.1:0"); err != nil {
		return err
	}
	var revision int64
	for _, f := range flags {
		f.Version = 0
		if _, err := w.operator.PutFlag(ctx, connect.NewRequest(&pb.PutFlagRequest{Flag: wire.Flag(f), Reason: "bench"})); err != nil {
			return fmt.Errorf("define %s: %w", f.Key, err)
		}
		revision++
	}
	if revision != int64(len(flags)) {
		return errors.New("not all flags are defined")
	}
	return nil
}

// startFlagd starts flagd, at a port it had before or at any.
func (w *world) startFlagd(listen string) error {
	var err error
	w.flagd, err = spawn("-what", "murmur", "-dir", filepath.Join(w.dir, "flagd"), "-etcd", w.etcd.Etcd[0], "-listen", listen)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(w.flagd.CA)) {
		return errors.New("the subject's CA is no certificate")
	}
	w.tls = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13, ServerName: "127.0.0.1"}
	w.http = &http.Client{Transport: &http.Transport{TLSClientConfig: w.tls.Clone(), ForceAttemptHTTP2: true}}
	w.operator = murmurv1connect.NewFlagServiceClient(w.http, "https://"+w.flagd.TLS, connect.WithInterceptors(bearer(w.flagd.Admin)))
	return nil
}

func bearer(token string) connect.Interceptor {
	return connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			req.Header().Set("Authorization", "Bearer "+token)
			return next(ctx, req)
		}
	})
}

func (w *world) kill(ctx context.Context, key string) (*pb.KillFlagsResponse, error) {
	resp, err := w.operator.KillFlags(ctx, connect.NewRequest(&pb.KillFlagsRequest{Key: key, Reason: "bench", WaitMs: -1}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

func (w *world) restore(ctx context.Context, key string) error {
	_, err := w.operator.RestoreFlags(ctx, connect.NewRequest(&pb.RestoreFlagsRequest{Key: key, Reason: "bench"}))
	return err
}

func (w *world) close() error {
	var errs []error
	if w.http != nil {
		w.http.CloseIdleConnections()
	}
	for _, p := range []*process{w.flagd, w.etcd} {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}
